"""Train and measure many image classifiers at once, whatever their architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.zoos.batch_norms import BatchNorms
from experiments.zoos.chunks import Chunk
from experiments.zoos.fast_cnn import is_plain_cnn
from experiments.zoos.fleet import flatten, in_company, train, unflatten
from experiments.zoos.images import Images
from experiments.zoos.members import Member, optimiser_of, prepare
from experiments.zoos.plain_classifiers import plain_logits, train_plain
from experiments.zoos.plans import CNNPlan
from graphnfn.activations import Activation, Gauge
from graphnfn.functional import run
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

_EVALUATE_AT_ONCE = 250


@dataclass(frozen=True)
class Group:
    """Networks of one architecture.

    Args:
        spec: the architecture.
        plans: one per network.
        facts: further columns of the table, the same for all of them.
    """

    spec: NetSpec
    plans: Sequence[CNNPlan]
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)


def train_classifiers(groups: Sequence[Group], data: Images, *, seed: int, batch: int) -> Chunk:
    """Train some networks, architecture by architecture.

    The table has a row per network: hyper-parameters, facts of the architecture, training measures on at most
    :data:`~experiments.zoos.members.TRAIN_IMAGES` of the images that it may see, and test measures on all test images.

    Args:
        groups: who is trained; no spec twice.
        data: the images.
        seed: of the zoo.
        batch: images per step.
    """
    stacks, table = [], []
    for number, group in enumerate(groups):
        members = [prepare(plan, group.spec, data, seed, batch) for plan in in_company(group.plans)]
        stack = _train(group.spec, members, data)
        stacks.append(stack.take(slice(0, len(group.plans))))
        rows = _measure(stack, members, data)[: len(group.plans)]
        table += [row | dict(group.facts) | {"spec": number} for row in rows]
    return Chunk(stacks, pd.DataFrame(table).sort_values("network", ignore_index=True))


def evaluate(stack: Stack, data: Images, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whether every network is right about some images, and its loss there, each ``[B, n]``.

    Args:
        stack: the networks.
        data: the images.
        rows: numbers of images, the same ``[n]`` for all networks, or ``[B, n]``.
    """
    right, loss = [], []
    rows = rows.expand(stack.size, -1)
    for part, logits in plain_logits(stack, data, rows) if is_plain_cnn(stack.spec) else _logits(stack, data, rows):
        labels = data.labels[part]
        right.append(logits.argmax(-1) == labels)
        loss.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape))
    return torch.cat(right, 1), torch.cat(loss, 1)


def _logits(stack: Stack, data: Images, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in rows.split(_EVALUATE_AT_ONCE, dim=1):
        # per_network: shared inputs would take other kernels, whose rounding depends on the number of networks
        yield part, run(stack, data.inputs(part), per_network=True)


def _train(spec: NetSpec, members: Sequence[Member], data: Images) -> Stack:
    """The trained networks in the order of ``members``, two at least."""
    order = sorted(range(len(members)), key=lambda i: -members[i].plan.steps)
    fleet = [members[i] for i in order]
    if is_plain_cnn(spec):
        return unflatten(spec, train_plain(spec, fleet, data)).take(torch.tensor(order).argsort())
    norms, bare = BatchNorms(spec, len(fleet)), _bare(spec)

    def loss(stack: Stack, step: int) -> Tensor:
        here = fleet[: stack.size]
        training = sum(m.plan.steps > step for m in here)
        images = torch.stack([m.images[min(step, m.plan.steps - 1)] for m in here])

        def hidden(group: int, z: Tensor) -> Tensor:
            x = spec.groups[group].activations[0](norms(group, z, stack, training))
            return x * _dropout_mask(here, z)

        logits = run(Stack(bare, stack.nodes, stack.blocks), data.inputs(images), per_network=True, hidden=hidden)
        entropy = F.cross_entropy(logits.flatten(0, 1), data.labels[images].flatten(), reduction="none")
        return entropy.view(images.shape).mean(1)

    theta = flatten([m.initial for m in fleet])
    theta = train(spec, theta, optimiser_of(fleet), [m.plan.steps for m in fleet], loss)
    return norms.written(unflatten(spec, theta)).take(torch.tensor(order).argsort())


def _bare(spec: NetSpec) -> NetSpec:
    """The layers without norms and activations: in training these come from elsewhere, with dropout behind them."""
    groups = tuple(
        dataclasses.replace(
            group, activations=(Activation("identity"),), gauge=(Gauge.NONE,), half_turns=False, norm_eps=None
        )
        if group.role == "hidden"
        else group
        for group in spec.groups
    )
    return dataclasses.replace(spec, groups=groups)


def _dropout_mask(members: Sequence[Member], state: Tensor) -> Tensor:
    """Factors of mean 1 for whole channels of ``state [images, networks, channels, *positions]``."""
    shape = (state.shape[0], state.shape[2])
    draws = np.stack([m.masks.random(shape, dtype=np.float32) for m in members], axis=1)
    drop = torch.tensor([m.plan.dropout for m in members])[:, None]
    return ((torch.from_numpy(draws) >= drop) / (1 - drop))[..., None, None]


def _measure(stack: Stack, members: Sequence[Member], data: Images) -> list[dict[str, object]]:
    right, loss = evaluate(stack, data, torch.stack([m.measured for m in members]))
    test_right, test_loss = evaluate(stack, data, data.test)
    return [
        {
            **dataclasses.asdict(member.plan),
            "train_accuracy": right[i, member.seen].double().mean().item(),
            "train_loss": loss[i, member.seen].double().mean().item(),
            "test_accuracy": test_right[i].double().mean().item(),
            "test_loss": test_loss[i].double().mean().item(),
        }
        for i, member in enumerate(members)
    ]
