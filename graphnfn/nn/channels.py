"""A traced network run on d learned inputs at once: activations times adjoints of its neurons, and its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphnfn.errors import SpecError
from graphnfn.nn.sites import Site, find_sites
from graphnfn.running import run_program
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

_RECURRENT = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")


@dataclass(frozen=True)
class Channels:
    """What tells the d runs of a network apart.

    Args:
        inputs: ``[d, K]``: channel c sees ``sum_k inputs[c, k] B_k``, where B_k are fixed random inputs; tokens are
            mixed after they were embedded.
        answers: ``[d, K]``: channel c sends back ``sum_k answers[c, k] C_k``, C_k fixed random cotangents.
        gains: ``[d, total]``: entries of a site are multiplied by ``1 + gain``.
    """

    inputs: Tensor
    answers: Tensor
    gains: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def parts(self, size: int) -> list[Channels]:
        """Some channels at a time."""
        fields = (self.inputs.split(size), self.answers.split(size), self.gains.split(size))
        return [Channels(*f) for f in zip(*fields, strict=True)]


@dataclass(frozen=True)
class Network:
    """One network of a stack, in the type that it shall run in."""

    spec: TracedSpec
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]

    @staticmethod
    def of(stack: TracedStack, row: int) -> Network:
        """Half precision becomes float32; under autocast everything becomes the type that it asks for."""
        device = next(iter(stack.tensors.values())).device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

        def fit(t: Tensor) -> Tensor:
            half = t.dtype in (torch.float16, torch.bfloat16)
            return t.to(kind) if kind is not None else t.float() if half else t

        tensors = {n: fit(t[row]) for n, t in stack.tensors.items()}
        return Network(stack.spec, tensors, stack.extra, stack.inputs)

    @property
    def dtype(self) -> torch.dtype:
        return next(t.dtype for t in self.tensors.values() if t.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device


def sweep(network: Network, channels: Channels, *, size: int, checkpoint: bool) -> tuple[Tensor, Tensor]:
    """Run a network forward and back, on some channels at a time.

    With ``f_c`` the network on the inputs of channel c, ``o[c, k] = <C_k, f_c>`` and ``L_c = sum_k answers[c, k]
    o[c, k]``: ``e[c, i] = dL_c / dgain[c, i]``, which is ``z_i dL_c/dz_i`` summed over all places where neuron i is.

    Args:
        network: what is run; it may require gradients, too.
        channels: d of them.
        size: channels at a time.
        checkpoint: whether to keep nothing for the backward pass but the arguments, and run once more there: memory
            is then that of ``size`` channels.

    Returns:
        ``e [d, total]`` and ``o [d, K]``, in the type of the channels.

    Raises:
        SpecError: no output is a floating point tensor.
    """
    found = [_some(network, part, checkpoint) for part in channels.parts(size)]
    e, o = zip(*found, strict=True)
    return torch.cat(e), torch.cat(o)


def _some(network: Network, channels: Channels, checkpoint: bool) -> tuple[Tensor, Tensor]:
    names = [n for n, t in network.tensors.items() if t.requires_grad and torch.is_grad_enabled()]
    leaves = (channels.inputs, channels.answers, channels.gains, *(network.tensors[n] for n in names))

    def run(*given: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        inputs, answers, gains, *weights = given
        tensors = {n: t.detach() for n, t in network.tensors.items()} | dict(zip(names, weights, strict=True))
        one = Network(network.spec, tensors, network.extra, network.inputs)
        return _there_and_back(one, Channels(inputs, answers, gains), create_graph)

    if torch.is_grad_enabled() and not checkpoint:
        return run(*leaves, create_graph=True)
    return _Again.apply(run, *leaves)  # type: ignore[return-value]


class _Again(torch.autograd.Function):
    """Runs a function that differentiates within itself; keeps its arguments only, and runs it again to go back."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*leaves)
        with torch.inference_mode(False), torch.enable_grad():
            out = run(*(_leaf(t, True) for t in leaves), create_graph=False)
        return tuple(t.detach() for t in out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            leaves = [_leaf(t, w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
            out = ctx.run(*leaves, create_graph=True)
            asked = [t for t, w in zip(leaves, wanted, strict=True) if w]
            pairs = [(o, g) for o, g in zip(out, grads, strict=True) if o.requires_grad]
            found = iter(torch.autograd.grad([o for o, _ in pairs], asked, [g for _, g in pairs], allow_unused=True))
        return (None, *(next(found) if w else None for w in wanted))


def _leaf(t: Tensor, wanted: bool) -> Tensor:
    t = t.clone() if t.is_inference() else t.detach()
    return t.requires_grad_(wanted)


def _there_and_back(network: Network, channels: Channels, create_graph: bool) -> tuple[Tensor, Tensor]:
    kind, device = network.dtype, network.device
    recurrent = any(op.target in _RECURRENT for op in network.spec.program.ops)
    gains = channels.gains if channels.gains.requires_grad else channels.gains.detach().requires_grad_()
    calm = torch.autocast(device.type, enabled=False)
    with calm, sdpa_kernel(SDPBackend.MATH):  # other kernels of attention cannot be differentiated twice

        def one(inputs: Tensor, gains: Tensor) -> Tensor:
            return _outputs(network, inputs, gains)

        arguments = (channels.inputs.to(device, kind), gains.to(device, kind))
        if recurrent:  # PyTorch has no batching rule for them
            mapped = torch.stack([one(*a) for a in zip(*arguments, strict=True)])
        else:
            mapped = torch.func.vmap(one)(*arguments)
        o = mapped.to(gains.dtype)
        if not o.requires_grad:  # no neuron has a place that is known
            return torch.zeros_like(gains), o
        loss = (o * channels.answers).sum()
        (e,) = torch.autograd.grad(loss, gains, create_graph=create_graph, materialize_grads=True)
    return e, o


def _outputs(network: Network, inputs: Tensor, gains: Tensor) -> Tensor:
    """One channel: ``[K]`` products of the outputs with fixed cotangents."""
    spec, device = network.spec, network.device
    sites = find_sites(spec)
    at = {s.op: s for s in sites.sites}
    waves = len(inputs)

    def observe(name: str, value: Any) -> Any:
        if name in sites.tokens:
            value = _mixed(network.tensors[sites.tokens[name]], value, inputs)
        site = at.get(name)
        if site is None:
            return value
        if isinstance(value, Tensor):
            return _gated(value, site, gains)
        return [_gated(value[0], site, gains), *value[1:]]

    given = [
        torch.tensordot(inputs, wave(k, waves, tuple(x.shape), inputs.dtype, device), 1) if x.is_floating_point() else x
        for k, x in enumerate(network.inputs)
    ]
    found = run_program(spec, network.tensors, network.extra, given, observe=observe)
    numbers = [(k, y) for k, y in enumerate(found) if isinstance(y, Tensor) and y.is_floating_point()]
    if not numbers:
        raise SpecError("no output of this network is a floating point tensor: it cannot be read")
    total = inputs.new_zeros(waves, dtype=torch.promote_types(inputs.dtype, torch.float32))
    for k, y in numbers:
        answers = wave(-1 - k, waves, tuple(y.shape), total.dtype, device)
        total = total + (answers.reshape(waves, -1) @ y.to(total.dtype).flatten()) * max(1, y.numel()) ** -0.5
    return total


def _gated(value: Tensor, site: Site, gains: Tensor) -> Tensor:
    gain = gains[site.start : site.start + site.count][site.segment.to(gains.device)]
    return value * (1 + gain.view(-1, *(1,) * (-1 - site.axis)))


def _mixed(table: Tensor, value: Tensor, inputs: Tensor) -> Tensor:
    """Embedded tokens as learned sums of K fixed random tokens at every place."""
    shape = tuple(value.shape[:-1])
    tokens = _tokens(len(inputs), shape, len(table)).to(table.device)
    return torch.tensordot(inputs, table[tokens], 1)


@lru_cache(maxsize=32)
def _tokens(waves: int, shape: tuple[int, ...], count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(count, size=(waves, *shape)))


@lru_cache(maxsize=32)
def wave(place: int, waves: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[K, *shape]``: fixed normal numbers, others at every place among the inputs and outputs.

    NumPy makes them, since PyTorch refuses random numbers while it maps a function over channels.
    """
    numbers = np.random.default_rng([abs(place), int(place < 0)]).standard_normal((waves, *shape), dtype=np.float32)
    return torch.from_numpy(numbers).to(device, dtype)
