"""``verify``: does a source have the symmetry that a spec claims?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from converters.convert import Inputs, Source, convert, tensors_of
from converters.verify import Runner, Verification, disturbed, relative_error, verify_graph, with_law
from graphnfn.errors import ConversionError
from graphnfn.functional import input_shape, run
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.symmetry.action import act
from graphnfn.symmetry.element import GroupElement, random_element
from graphnfn.traced import TracedSpec


def verify(
    source: Source,
    spec: NetSpec,
    *,
    example_input: Inputs | None = None,
    decades: float = 2.0,
    draws: int = 2,
    seed: int = 0,
    seconds: float = 60.0,
    **reading: Any,
) -> Verification:
    """Move the source's weights by random elements of the group that ``spec`` claims, and compare outputs.

    A module runs itself, in float64; other sources run by what their spec says that they compute. For group elements
    g and random inputs the errors are ``max |f(g w) - f(w)| / max |f(w)|``.

    Args:
        source: as in :func:`converters.convert`.
        spec: the claim, e.g. ``convert(source).spec``.
        example_input: inputs of a module; where they are floating point, random numbers of their shapes are used.
        decades: of the scales.
        draws: group elements per neuron group.
        seed: of elements and inputs.
        seconds: time for single groups; what is left is checked jointly only.
        reading: further arguments of ``convert``, e.g. ``activation=``.

    Raises:
        ConversionError: the source cannot run, or its outputs are not finite.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> verify(net, convert(net).spec).worst < 1e-12
        True
    """
    runner = None
    inputs = _inputs(example_input, seed)
    if isinstance(spec, TracedSpec):
        graph = convert(source, example_input=example_input, verify=False, **reading)
        if not isinstance(graph.spec, TracedSpec):
            raise ConversionError("the spec is of a traced network, the source is a plain chain: give its own spec")
        graph = with_law(graph, spec.law)
        runner = module_runner(source, inputs) if isinstance(source, nn.Module) and inputs else None
        return verify_graph(graph, decades=decades, draws=draws, seed=seed, seconds=seconds, runner=runner)[1]
    graph = NeuralGraph.build(spec, tensors_of(source)).astype(torch.float64)
    if isinstance(source, nn.Module) and inputs:
        runner = module_runner(source, inputs)
    return _verify_chain(graph, spec, runner or _chain_runner(spec, seed), decades, draws, seed)


def _inputs(example_input: Inputs | None, seed: int) -> tuple[Tensor, ...] | None:
    if example_input is None:
        return None
    given = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(x.shape, generator=generator, dtype=torch.float64) if x.is_floating_point() else x for x in given
    )


def module_runner(module: nn.Module, inputs: tuple[Tensor, ...]) -> Runner:
    """The module itself, in float64 and eval mode, on other weights."""
    wide = copy.deepcopy(module).double().eval()

    def run_module(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found = functional_call(wide, dict(tensors), inputs, tie_weights=True)
        return tuple(x for x in _flat(found) if x.is_floating_point())

    return run_module


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for part in value.values() for x in _flat(part)]
    return [x for part in value for x in _flat(part)] if isinstance(value, (tuple, list)) else []


def _chain_runner(spec: NetSpec, seed: int) -> Runner:
    def run_spec(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        graph = NeuralGraph.build(spec, tensors)
        generator = torch.Generator().manual_seed(seed)
        shape = input_shape(graph.spec)
        return (run(graph, torch.randn(8, *shape, generator=generator, dtype=torch.float64)),)

    return run_spec


def _verify_chain(
    graph: NeuralGraph, spec: NetSpec, runner: Runner, decades: float, draws: int, seed: int
) -> Verification:
    tensors = graph.state_dict()
    base = runner(tensors)
    errors: dict[str, float] = {}
    joint = 0.0
    for d in range(draws):
        element = random_element(spec, decades, seed + d, half_turns=1)
        for name, action in element.actions.items():
            moved = act(GroupElement(spec, {name: action}), graph).state_dict()
            errors[name] = max(errors.get(name, 0.0), relative_error(base, runner(moved)))
        joint = max(joint, relative_error(base, runner(act(element, graph).state_dict())))
    failed = {name: error for name, error in errors.items() if not error <= 1e-9}
    control = relative_error(base, runner(dict(disturbed(tensors))))
    return Verification(errors, joint, failed, (), control)
