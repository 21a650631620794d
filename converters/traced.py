"""Neuron graphs of traced networks: trace, infer the symmetry, lay out, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from converters.gauge.infer import infer
from converters.gauge.solve import solve
from converters.loaded import Loaded
from converters.trace import Traced, trace_module
from graphnfn.errors import ConversionError
from graphnfn.graph import NeuralGraph
from graphnfn.law import SymmetryLaw
from graphnfn.program import Program
from graphnfn.traced import traced_spec
from graphnfn.traced_stack import TracedStack


def traced_graph(module: nn.Module, inputs: Sequence[Tensor]) -> NeuralGraph:
    """The neuron graph of any module that torch.export can trace.

    Raises:
        ConversionError: it does not run on these inputs, or has no weights.

    Example:
        >>> block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> graph = traced_graph(block, (torch.randn(1, 3, 8),))
        >>> len(graph.spec.law.families)      # the two heads may be exchanged
        1
    """
    return loaded_graph(Loaded(module, tuple(inputs), {}))


def loaded_graph(loaded: Loaded) -> NeuralGraph:
    """The neuron graph of a network that was read from a file, under the file's own names."""
    return graph_of(trace_module(loaded.module, loaded.inputs), loaded.names)


def graph_of(traced: Traced, names: Mapping[str, str]) -> NeuralGraph:
    """The neuron graph of a traced network; ``names`` are those of its tensors that have others in their source."""
    law = infer_law(traced)
    rename = dict(names)
    program = _renamed(traced.program, rename)
    law = _renamed_law(law, rename)
    used = _in_order_of_use(traced.program)
    movable = [n for n in dict.fromkeys(used) if n in traced.movable]
    if not movable:
        raise ConversionError("the network has no floating point weights that its output depends on")
    shapes = {rename.get(n, n): tuple(traced.tensors[n].shape) for n in movable}
    tensors = {rename.get(n, n): _checked(rename.get(n, n), traced.tensors[n])[None] for n in movable}
    extra = {rename.get(n, n): traced.tensors[n] for n in dict.fromkeys(used) if n not in traced.movable}
    extra |= dict(zip(traced.program.constants, traced.constants, strict=True))
    spec = traced_spec(law, program, shapes)
    return NeuralGraph.from_stacks([TracedStack(spec, tensors, extra, traced.inputs)])


def _in_order_of_use(program: Program) -> list[str]:
    """Names of the tensors, in the order in which operators read them."""
    named = dict(program.tensors)
    return [named[ref] for op in program.ops for ref in op.refs() if ref in named]


def infer_law(traced: Traced) -> SymmetryLaw:
    """The symmetry of a traced network."""
    shapes = {name: tuple(t.shape) for name, t in traced.tensors.items()}
    return solve(infer(traced.program, traced.shapes, shapes, traced.movable))


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        raise ConversionError(f"{name!r} has no values (it is on the meta device): load the weights first")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ConversionError(f"{name!r} has {bad} NaN or infinite entries: repair the checkpoint or train again")
    return tensor.detach().clone()


def _renamed(program: Program, names: Mapping[str, str]) -> Program:
    tensors = tuple((value, names.get(name, name)) for value, name in program.tensors)
    return Program(program.inputs, tensors, program.constants, program.ops, program.outputs)


def _renamed_law(law: SymmetryLaw, names: Mapping[str, str]) -> SymmetryLaw:
    legs = tuple(replace(leg, param=names.get(leg.param, leg.param)) for leg in law.legs)
    exchanges = tuple(
        replace(e, parts=tuple(tuple(replace(p, param=names.get(p.param, p.param)) for p in part) for part in e.parts))
        for e in law.exchanges
    )
    return replace(law, legs=legs, exchanges=exchanges)
