"""The gradients of :mod:`~experiments.zoos.fast_mlp` and :mod:`~experiments.zoos.fast_cnn` in C (``csrc``).

PyTorch's operators go through memory once per operation; here one network at a time stays in the cache from its
inputs to its gradient.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from experiments.zoos.compiled import INT, REAL, call, fields
from experiments.zoos.fast_cnn import Dropout, map_shapes
from experiments.zoos.images import Images
from graphnfn.spec import NetSpec

_KINDS = {"identity": 0, "relu": 1, "tanh": 2, "sin": 3}
"""As in ``neurons.h``; nothing is done to the outputs of the last layer."""


class _Layer(ctypes.Structure):
    _fields_ = [*fields(INT, "inputs outputs kind weight bias"), ("omega", REAL)]


class _MLPTask(ctypes.Structure):
    _fields_ = fields(INT, "layers samples columns layer inputs targets theta grad losses")


class _Conv(ctypes.Structure):
    _fields_ = [
        *fields(INT, "inputs outputs kind weight bias"),
        *fields(INT * 2, "taps stride dilation before after"),
    ]


class _CNNTask(ctypes.Structure):
    _fields_ = [
        *fields(INT, "layers images columns classes draws_apart weight bias conv pixels"),
        *fields(REAL, "mean deviation"),
        *fields(INT, "chosen labels draws drops theta logits grad"),
    ]


class CompiledMLPs:
    """Mean squares of many MLPs, and their gradients, as of :class:`~experiments.zoos.fast_mlp.PlainMLPs`.

    Args:
        spec: of :func:`~experiments.zoos.fast_mlp.is_plain_mlp`.
        theta: parameters in the order of the spec, ``[k, P]``, perhaps with further columns; read at every call.
        inputs: of all networks, ``[samples, inputs]``.
    """

    def __init__(self, spec: NetSpec, theta: Tensor, inputs: Tensor) -> None:
        places, omegas = _places(spec), []
        self._layers = (_Layer * len(spec.blocks))()
        for i, (block, bias) in enumerate(zip(spec.blocks, spec.node_params, strict=True)):
            act = spec.groups[i + 1].activations[0]
            omegas.append(act.parameter if act.name == "sin" else 1.0)
            kind, (outputs, count) = _KINDS[act.name], block.sizes
            self._layers[i] = _Layer(count, outputs, kind, places[block.param], places[bias.param], omegas[-1])
        self._theta, self._inputs = theta, inputs.T.contiguous()
        self._grad, self._losses = torch.zeros_like(theta), theta.new_empty(len(theta))
        heads = (len(self._layers), len(inputs), theta.stride(0), ctypes.addressof(self._layers))
        ours = [t.data_ptr() for t in (theta, self._grad, self._losses)]
        self._task = _MLPTask(*heads, self._inputs.data_ptr(), 0, *ours)

    def squares(self, targets: Tensor) -> Tensor:
        """The mean of (outputs - targets)^2, ``[k]``; targets are ``[k, outputs, samples]``."""
        self.gradient_of_squares(targets)
        return self._losses.clone()

    def gradient_of_squares(self, targets: Tensor) -> Tensor:
        """d :meth:`squares` / d theta, of the shape of theta; valid until the next call."""
        assert targets.is_contiguous() and targets.dtype == self._theta.dtype
        self._task.targets = targets.data_ptr()
        call("mlp_squares", self._task, self._theta, len(self._theta))
        return self._grad


class CompiledCNNs:
    """Logits and gradients of many classifiers, as of :class:`~experiments.zoos.plain_classifiers.PlainClassifiers`.

    Args:
        spec: of :func:`~experiments.zoos.fast_cnn.is_plain_cnn`.
        theta: parameters in the order of the spec, ``[k, P]``, perhaps with further columns; read at every call.
        data: where images come from.
        count: how many images every network sees at once.
    """

    def __init__(self, spec: NetSpec, theta: Tensor, data: Images, count: int) -> None:
        places, maps = _places(spec), map_shapes(spec)
        self._convs = (_Conv * (len(spec.blocks) - 1))()
        for i, (block, bias) in enumerate(zip(spec.blocks[:-1], spec.node_params, strict=False)):
            assert block.conv is not None
            head = (*reversed(block.sizes[:2]), _KINDS[spec.groups[i + 1].activations[0].name])
            facts = (block.taps, block.conv.stride, block.conv.dilation, maps[i][1:], maps[i + 1][1:])
            pairs = [(INT * 2)(*pair) for pair in facts]
            self._convs[i] = _Conv(*head, places[block.param], places[bias.param], *pairs)
        self._theta, self._pixels, self._count = theta, data.images.to(theta.dtype).contiguous(), count
        self._grad, self._classes = torch.zeros_like(theta), spec.groups[-1].size
        dense = places[spec.blocks[-1].param], places[spec.node_params[-1].param]
        draws = count * sum(g.size for g in spec.groups[1:-1])
        heads = (len(self._convs), count, theta.stride(0), self._classes, draws, *dense)
        pointers = ctypes.addressof(self._convs), self._pixels.data_ptr()
        moments = [float(m) for m in data.moments]
        self._task = _CNNTask(*heads, *pointers, *moments)
        self._task.theta = theta.data_ptr()

    def logits(self, rows: Tensor) -> Tensor:
        """Logits of the networks for images ``[k, count]``, ``[k, classes, count]``."""
        out = self._theta.new_empty(len(self._theta), self._classes, self._count)
        self._task.logits, self._task.grad = out.data_ptr(), 0
        self._see(rows, None)
        return out

    def gradient(self, rows: Tensor, labels: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Gradient of the mean cross entropy, of the shape of theta; valid until the next call.

        Args:
            rows: numbers of images, ``[k, count]``.
            labels: their classes.
            dropout: of the convolutions' activations, none without it.
        """
        labels = labels.contiguous()
        self._task.labels, self._task.grad = labels.data_ptr(), self._grad.data_ptr()
        self._see(rows, dropout)
        return self._grad

    def _see(self, rows: Tensor, dropout: Dropout | None) -> None:
        rows, tensors = rows.contiguous(), [t.to(self._theta.dtype).contiguous() for t in dropout or ()]
        assert rows.shape == (len(self._theta), self._count)
        self._task.draws, self._task.drops = [t.data_ptr() for t in tensors] or [0, 0]
        self._task.chosen = rows.data_ptr()
        call("cnn_run", self._task, self._theta, len(self._theta))


def _places(spec: NetSpec) -> dict[str, int]:
    """Where every parameter begins in a row."""
    places, place = {}, 0
    for name, shape in spec.params.items():
        places[name] = place
        place += math.prod(shape)
    return places
