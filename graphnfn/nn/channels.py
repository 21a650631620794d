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

_GAINS = 2
"""Their place among the arguments."""
_RECURRENT = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")


@dataclass(frozen=True)
class Channels:
    """What tells the d runs of each of B networks apart.

    Args:
        inputs: ``[B, d, K]``: channel c sees ``sum_k inputs[c, k] B_k``, where B_k are fixed random inputs; tokens are
            mixed after they were embedded.
        answers: ``[B, d, K]``: channel c sends back ``sum_k answers[c, k] C_k``, C_k fixed random cotangents.
        gains: ``[B, d, total]``: entries of a site are multiplied by ``1 + gain``.
    """

    inputs: Tensor
    answers: Tensor
    gains: Tensor

    def parts(self, size: int) -> list[Channels]:
        """Some channels at a time."""
        fields = (self.inputs.split(size, 1), self.answers.split(size, 1), self.gains.split(size, 1))
        return [Channels(*f) for f in zip(*fields, strict=True)]


@dataclass(frozen=True)
class Networks:
    """Some networks of a stack, in the type that they shall run in."""

    spec: TracedSpec
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]

    @staticmethod
    def of(stack: TracedStack, rows: slice = slice(None)) -> Networks:
        """Half precision becomes float32; under autocast everything becomes the type that it asks for."""
        device = next(iter(stack.tensors.values())).device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

        def fit(t: Tensor) -> Tensor:
            half = t.dtype in (torch.float16, torch.bfloat16)
            return t.to(kind) if kind is not None else t.float() if half else t

        tensors = {n: fit(t[rows]) for n, t in stack.tensors.items()}
        return Networks(stack.spec, tensors, stack.extra, stack.inputs)

    @property
    def size(self) -> int:
        """How many."""
        return len(next(iter(self.tensors.values())))

    @property
    def dtype(self) -> torch.dtype:
        return next(t.dtype for t in self.tensors.values() if t.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device


def sweep(networks: Networks, channels: Channels, *, size: int, checkpoint: bool) -> tuple[Tensor, Tensor]:
    """Run networks forward and back, on some channels at a time.

    With ``f_c`` the network on the inputs of channel c, ``o[c, k] = <C_k, f_c>`` and ``L_c = sum_k answers[c, k]
    o[c, k]``: ``e[c, i] = dL_c / dgain[c, i]``, which is ``z_i dL_c/dz_i`` summed over all places where neuron i is.

    Args:
        networks: what is run; they may require gradients, too.
        channels: d of them.
        size: channels at a time.
        checkpoint: whether to keep nothing for the backward pass but the arguments, and run once more there: memory
            is then that of ``size`` channels.

    Returns:
        ``e [B, d, total]`` and ``o [B, d, K]``, in the type of the channels.

    Raises:
        SpecError: no output is a floating point tensor.
    """
    found = [_some(networks, part, checkpoint) for part in channels.parts(size)]
    e, o = zip(*found, strict=True)
    return torch.cat(e, 1), torch.cat(o, 1)


def _some(networks: Networks, channels: Channels, checkpoint: bool) -> tuple[Tensor, Tensor]:
    names = [n for n, t in networks.tensors.items() if t.requires_grad and torch.is_grad_enabled()]
    leaves = (channels.inputs, channels.answers, channels.gains, *(networks.tensors[n] for n in names))

    def run(*given: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        inputs, answers, gains, *weights = given
        tensors = {n: t.detach() for n, t in networks.tensors.items()} | dict(zip(names, weights, strict=True))
        some = Networks(networks.spec, tensors, networks.extra, networks.inputs)
        return _there_and_back(some, Channels(inputs, answers, gains), create_graph)

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
            out = run(*(_leaf(t, k == _GAINS) for k, t in enumerate(leaves)), create_graph=False)
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


def _there_and_back(networks: Networks, channels: Channels, create_graph: bool) -> tuple[Tensor, Tensor]:
    kind, device = networks.dtype, networks.device
    gains = channels.gains if channels.gains.requires_grad else channels.gains.detach().requires_grad_()
    calm = torch.autocast(device.type, enabled=False)
    with calm, sdpa_kernel(SDPBackend.MATH):  # other kernels of attention cannot be differentiated twice
        o = _mapped(networks, channels.inputs.to(device, kind), gains.to(device, kind)).to(gains)
        if not o.requires_grad:  # no neuron has a place that is known
            return torch.zeros_like(gains), o
        loss = (o * channels.answers).sum()
        (e,) = torch.autograd.grad(loss, gains, create_graph=create_graph, materialize_grads=True)
    return e, o


def _mapped(networks: Networks, inputs: Tensor, gains: Tensor) -> Tensor:
    """``[B, d, K]``: all networks on all channels."""

    def one(inputs: Tensor, gains: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return _outputs(networks, inputs, gains, tensors)

    tensors = dict(networks.tensors)
    if any(op.target in _RECURRENT for op in networks.spec.program.ops):  # PyTorch cannot map them
        rows = []
        for b in range(len(inputs)):
            single = {n: t[b] for n, t in tensors.items()}
            rows.append(torch.stack([one(x, g, single) for x, g in zip(inputs[b], gains[b], strict=True)]))
        return torch.stack(rows)
    channelwise = torch.func.vmap(one, (0, 0, None))
    if len(inputs) == 1:  # products with one matrix cost less than batches of them
        return channelwise(inputs[0], gains[0], {n: t[0] for n, t in tensors.items()})[None]
    return torch.func.vmap(channelwise)(inputs, gains, tensors)


def _outputs(networks: Networks, inputs: Tensor, gains: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """One network and channel: ``[K]`` products of the outputs with fixed cotangents."""
    spec, device = networks.spec, networks.device
    sites = find_sites(spec)
    at = {s.op: s for s in sites.sites}
    waves = len(inputs)

    def observe(name: str, value: Any) -> Any:
        if name in sites.tokens:
            value = _mixed(tensors[sites.tokens[name]], value, inputs)
        site = at.get(name)
        if site is None:
            return value
        if isinstance(value, Tensor):
            return _gated(value, site, gains)
        return [_gated(value[0], site, gains), *value[1:]]

    given = [
        torch.tensordot(inputs, wave(k, waves, tuple(x.shape), inputs.dtype, device), 1) if x.is_floating_point() else x
        for k, x in enumerate(networks.inputs)
    ]
    found = run_program(spec, tensors, networks.extra, given, observe=observe)
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
