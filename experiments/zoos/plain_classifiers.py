"""Train and run plain CNNs, a few at a time: compiled, or by :class:`~experiments.zoos.fast_cnn.PlainCNNs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.zoos.compiled import can_compile
from experiments.zoos.compiled_nets import CompiledCNNs
from experiments.zoos.fast_cnn import Dropout, PlainCNNs, cnns_at_once
from experiments.zoos.fleet import aligned, descend, flatten, in_company, pieces
from experiments.zoos.images import Images
from experiments.zoos.members import Member, optimiser_of
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

_EVALUATE_AT_ONCE = 64
_DRAWN_AHEAD = 8
"""Steps whose dropout is drawn at once."""


def train_plain(spec: NetSpec, fleet: Sequence[Member], data: Images) -> Tensor:
    """Train some networks on the cross entropy of their images, with dropout behind the convolutions.

    Args:
        spec: of :func:`~experiments.zoos.fast_cnn.is_plain_cnn`.
        fleet: the networks, sorted by falling number of steps.
        data: the images.

    Returns:
        The trained networks, ``[B, P]``.
    """
    out = []
    initial = flatten([m.initial for m in fleet])
    for piece in pieces(len(fleet), _at_once(spec, fleet[0].images.shape[1], initial)):
        members = [fleet[i] for i in in_company(piece)]
        theta = aligned(initial[in_company(piece)])
        descend(theta, optimiser_of(members), [m.plan.steps for m in members], _Gradient(spec, members, data))
        out.append(theta[: len(piece), : spec.num_params])
    return torch.cat(out)


def plain_logits(stack: Stack, data: Images, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images, ``[B, n]``, and the networks' logits for them, ``[B, n, classes]``, until all are done.

    Args:
        stack: of plain CNNs.
        data: the images.
        rows: numbers of images, ``[B, m]``.
    """
    theta = aligned(torch.cat([value.flatten(1) for value in stack.unpack().values()], 1))
    here = [in_company(piece) for piece in pieces(stack.size, _at_once(stack.spec, _EVALUATE_AT_ONCE, theta))]
    networks = [_classifiers(stack.spec, theta[piece], data, _EVALUATE_AT_ONCE) for piece in here]
    for part in rows.split(_EVALUATE_AT_ONCE, dim=1):
        full = torch.cat([part, part[:, -1:].expand(-1, _EVALUATE_AT_ONCE - part.shape[1])], 1)
        logits = []
        for piece, cnns in zip(here, networks, strict=True):
            logits.append(cnns.logits(full[piece])[: len(set(piece)), :, : part.shape[1]].transpose(1, 2).clone())
        yield part, torch.cat(logits)


class PlainClassifiers:
    """Logits and gradients of :class:`~experiments.zoos.fast_cnn.PlainCNNs` for images by their numbers.

    Args:
        spec: of :func:`~experiments.zoos.fast_cnn.is_plain_cnn`.
        theta: parameters, ``[k, P]``, perhaps with further columns; read at every call.
        data: where images come from.
        count: how many images every network sees at once.
    """

    def __init__(self, spec: NetSpec, theta: Tensor, data: Images, count: int) -> None:
        self._cnns, self._data, self._sizes = PlainCNNs(spec, theta, count), data, [g.size for g in spec.groups[1:-1]]

    def logits(self, rows: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Logits of the networks for images ``[k, count]``, ``[k, classes, count]``; valid until the next call."""
        self._data.fill(self._cnns.inputs, rows)
        return self._cnns.logits(dropout.masks(self._sizes, rows.shape[1]) if dropout else ())

    def gradient(self, rows: Tensor, labels: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Gradient of the mean cross entropy, of the shape of theta; valid until the next call.

        Args:
            rows: numbers of images, ``[k, count]``.
            labels: their classes.
            dropout: of the convolutions' activations, none without it.
        """
        labels = labels[:, None]
        cotangent = torch.softmax(self.logits(rows, dropout), 1)
        cotangent.scatter_add_(1, labels, cotangent.new_full((1, 1, 1), -1.0).expand_as(labels))
        return self._cnns.gradient(cotangent.div_(rows.shape[1]))


def _classifiers(spec: NetSpec, theta: Tensor, data: Images, count: int) -> PlainClassifiers | CompiledCNNs:
    return (CompiledCNNs if can_compile(theta) else PlainClassifiers)(spec, theta, data, count)


def _at_once(spec: NetSpec, images: int, theta: Tensor) -> int:
    """How many networks share what is done by PyTorch; the compiled way keeps the maps of one only."""
    return cnns_at_once(spec, 0 if can_compile(theta) else images)


class _Gradient:
    """Gradients of the cross entropy of some networks, step by step."""

    def __init__(self, spec: NetSpec, members: Sequence[Member], data: Images) -> None:
        self._spec, self._members, self._data = spec, members, data
        steps = members[0].plan.steps
        # who is done and mere company goes on with its last images
        images = [torch.cat([m.images, m.images[-1:].expand(steps - len(m.images), -1)]) for m in members]
        self._images = torch.stack(images, 1)
        self._labels = data.labels[self._images]
        self._share = torch.tensor([m.plan.dropout for m in members])
        self._sizes = [g.size for g in spec.groups[1:-1]]
        self._cnns: PlainClassifiers | CompiledCNNs | None = None
        self._count = 0

    def __call__(self, theta: Tensor, step: int) -> Tensor:
        if self._cnns is None or len(theta) != self._count:
            self._cnns = _classifiers(self._spec, theta, self._data, self._images.shape[2])
            self._count = len(theta)
        if step % _DRAWN_AHEAD == 0:
            self._draws = self._drawn(self._count)
        dropout = Dropout(self._draws[step % _DRAWN_AHEAD, : self._count], self._share[: self._count])
        rows, labels = (table[step, : self._count] for table in (self._images, self._labels))
        return self._cnns.gradient(rows, labels, dropout)

    def _drawn(self, count: int) -> Tensor:
        """What decides about dropout in the next steps, ``[steps, k, images * channels]``."""
        shape = _DRAWN_AHEAD, self._images.shape[2] * sum(self._sizes)
        each = {m.plan.network: m.masks for m in self._members[:count]}  # one that is its own company draws once
        drawn = {i: masks.random(shape, dtype=np.float32) for i, masks in each.items()}
        return torch.from_numpy(np.stack([drawn[m.plan.network] for m in self._members[:count]], 1))
