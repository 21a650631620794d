"""ProbeGen: learned inputs, made by a deep linear generator, are run through the networks; an MLP reads the outputs.

Kahana, Horwitz, Shuval, Hoshen, "Deep Linear Probe Generators for Weight Space Learning" (2024), arXiv 2410.10811;
sizes as in jonkahana/ProbeGen at e3b8e14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, refuse_rest, take, take_below
from graphnfn.errors import SpecError
from graphnfn.functional import input_shape, run
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.traced import TracedSpec

_SIDE = 32
"""Generated pictures have as many rows and columns; networks on smaller ones see them resized."""
_PIECE = 2**23
"""Numbers in the largest activation of networks that are run at a time."""
_STEPS = ((4, 1, 0), (4, 2, 1), (4, 2, 1), (3, 1, 1), (4, 2, 1), (3, 1, 1))
"""Kernel, stride and padding of the transposed convolutions."""


def _pictures(latent: int, width: int, channels: int) -> nn.Sequential:
    sizes = (latent, 8 * width, 4 * width, 2 * width, 2 * width, width, channels)
    layers = [nn.ConvTranspose2d(a, b, *step) for a, b, step in zip(sizes, sizes[1:], _STEPS, strict=False)]
    return nn.Sequential(*layers, nn.Tanh())


class ProbeGen(nn.Module):
    r"""Outputs on generated inputs, side by side, in an MLP: ``f(G) = MLP(G(A z_1), .., G(A z_n))``.

    The codes z are learned; A is a product of matrices without activations between them: transposed convolutions to
    pictures of 32 x 32, with a tanh behind the last, for networks on pictures, two linear layers for others. Only
    the function of a network is seen, so every symmetry of its weights is one of this model.

    Networks may differ in everything between their inputs and outputs. Pictures of other sizes are made by bilinear
    interpolation (the paper has 32 x 32 only).

    Args:
        specs: architectures that it shall read; they must tell how they run.
        out: numbers predicted per network.
        probes: learned inputs n.
        latent: length of a code.
        generator: channels of the picture generator's last layer but one.
        hidden: width of the MLP.
        layers: of the MLP.

    Raises:
        BaselineError: the specs differ in inputs or outputs, or do not tell how they run.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> ProbeGen([spec], out=3, probes=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "sign"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"probes_64": {"probes": 64}, "probes_128": {"probes": 128}}
    )

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        probes: int = 128,
        latent: int = 32,
        generator: int = 16,
        hidden: int = 256,
        layers: int = 6,
    ) -> None:
        super().__init__()
        self.ends = _ends(specs[0])
        for spec in specs:
            self._check(spec)
        entries, outputs = self.ends
        if len(entries) == 3:
            self.codes = nn.Parameter(torch.randn(probes, latent, 1, 1))
            self.generate = _pictures(latent, generator, entries[0])
        elif len(entries) == 1:
            self.codes = nn.Parameter(torch.randn(probes, latent))
            self.generate = nn.Sequential(nn.Linear(latent, latent), nn.Linear(latent, entries[0]))
        else:
            raise BaselineError(f"ProbeGen makes vectors and pictures; got networks on inputs of shape {entries}")
        sizes = [probes * outputs] + [hidden] * (layers - 1)
        parts = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
        self.predict = nn.Sequential(*parts, nn.Linear(sizes[-1], out))

    def probes(self) -> Tensor:
        """The inputs, ``[probes, *input_shape]``."""
        made, (entries, _) = self.generate(self.codes), self.ends
        if len(entries) == 3 and entries[1:] != made.shape[2:]:
            return F.interpolate(made, entries[1:], mode="bilinear", antialias=True)
        return made

    def forward(self, data: Data) -> Tensor:
        graph, inputs = NeuralGraph.of(data), self.probes()
        for spec in graph.specs:
            self._check(spec)
        seen = torch.cat([_answers(stack, inputs.to(stack.nodes.dtype)) for stack in graph.stacks()])
        order = torch.cat(graph.members()).argsort().to(seen.device)
        return self.predict(seen[order].to(inputs.dtype))

    def _check(self, spec: NetSpec) -> None:
        if _ends(spec) != self.ends:
            raise BaselineError(
                f"ProbeGen runs all networks on the same inputs; got inputs and outputs {_ends(spec)}, expected "
                f"{self.ends}: use one zoo"
            )


def _answers(stack: Stack, inputs: Tensor) -> Tensor:
    """``[networks, probes * outputs]``, of so many networks at a time as leave their activations in the cache."""
    activations = inputs[:, 0].numel() * max(group.size for group in stack.spec.groups)
    size = max(1, _PIECE // activations)
    pieces = (stack.take(slice(i, i + size)) for i in range(0, stack.size, size))
    return torch.cat([run(piece, inputs).flatten(1) for piece in pieces])


def _ends(spec: NetSpec) -> tuple[tuple[int, ...], int]:
    """Shape of an input, and numbers of an output.

    Networks on pictures that only say how many channels they take are run on 32 x 32.
    """
    if isinstance(spec, TracedSpec):
        raise BaselineError("ProbeGen runs chains; got a traced network: use GraphMetaNet, or convert an MLP or CNN")
    first = next(b for b in spec.blocks if b.src == spec.groups[0].id)
    if first.kind == "conv" and first.conv is None:
        raise BaselineError(f"stride and padding of {first.param!r} are unknown: convert the module")
    picture = spec.input_shape is None and first.kind == "conv" and not _flattens(spec)
    try:
        shape = (spec.groups[0].size, _SIDE, _SIDE) if picture else input_shape(spec)
    except SpecError as error:
        raise BaselineError(str(error)) from error
    return shape, spec.groups[-1].size


def _flattens(spec: NetSpec) -> bool:
    """Whether the number of positions matters."""
    return any(op.kind == "flatten" for b in spec.blocks for op in b.post)


_GENERATORS = {"deep_linear_6": "tokens_generator.main.", "linear_2_no_acts": "tokens_generator."}


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """A :class:`ProbeGen` with the weights of jonkahana/ProbeGen's ``ProbeGen.py:ProbeGen``.

    Args:
        meta: ``specs``, and ``constructor`` with the official arguments.
        state: the official state dict.

    Raises:
        BaselineError: another generator than deep_linear_6 or linear_2_no_acts, or weights that do not fit.
    """
    given, state = meta["constructor"], dict(state)
    prefix = _GENERATORS.get(given.get("gen_type", "deep_linear_5"))
    if prefix is None:
        raise BaselineError(f"expected gen_type {' or '.join(_GENERATORS)}; got {given.get('gen_type')!r}")
    own = {"codes": take(state, "input")}
    own |= {f"generate.{k}": v for k, v in take_below(state, prefix).items()}
    own |= {f"predict.{k}": v for k, v in take_below(state, "points_mixer.").items()}
    refuse_rest(state)
    model = ProbeGen(
        meta["specs"], given["d_out"], probes=given["n_tokens"], latent=given.get("gen_latent_z", 32),
        generator=given.get("gen_width", 16), hidden=given["d_hidden"], layers=given.get("n_layers", 6),
    ).to(own["codes"].dtype)  # fmt: skip
    load_strict(model, own)
    return model
