"""Prove a claimed symmetry on the checkpoint itself: moved weights must give the same outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converters.moved import Moved
from graphnfn.errors import ConversionError
from graphnfn.graph import NeuralGraph
from graphnfn.law import SymmetryLaw
from graphnfn.running import run_program
from graphnfn.symmetry.law_element import LawElement, random_law_element
from graphnfn.traced import TracedSpec, traced_spec
from graphnfn.traced_stack import TracedStack

Runner = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]

TOLERANCE = 1e-9
"""Largest relative change of an output in float64."""


@dataclass(frozen=True)
class Verification:
    """What came out.

    Args:
        errors: per group with a symmetry, the worst relative change of the outputs when only it moves.
        joint: the same when everything moves at once, families included.
        demoted: groups whose claim failed, and by how much.
        unchecked: groups that there was no time for; ``joint`` covers them.
        control: how much the outputs change with weights that are no equivalent of the network's own, for comparison:
            where that is no more than rounding, the other numbers show nothing.
    """

    errors: dict[str, float]
    joint: float
    demoted: dict[str, float]
    unchecked: tuple[str, ...]
    control: float

    @property
    def worst(self) -> float:
        """The largest error of what is still claimed."""
        kept = [e for g, e in self.errors.items() if g not in self.demoted]
        return max([self.joint, *kept])


def verify_graph(
    graph: NeuralGraph,
    *,
    decades: float = 2.0,
    draws: int = 2,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    seconds: float = 60.0,
    runner: Runner | None = None,
    each: bool = True,
) -> tuple[NeuralGraph, Verification]:
    """Check every group of a traced network; groups that fail lose their symmetry.

    For group elements g: ``max |f(g w) - f(w)| / max |f(w)|`` per output, on random inputs, in float64.

    Args:
        graph: one traced network.
        decades: of the scales.
        draws: group elements per group.
        seed: of elements and inputs.
        tolerance: what counts as equal.
        seconds: time for single groups; what is left is checked jointly only.
        runner: runs the network on a state dict; without it the traced program does.
        each: False looks at single groups only where the joint check fails, which is much faster for large networks.

    Returns:
        The graph, with the law that held, and the errors.

    Raises:
        ConversionError: the network's outputs are not finite.
    """
    stack = graph.stacks()[0]
    if not isinstance(stack, TracedStack):
        raise ConversionError("verify_graph checks traced networks: convert with example_input=")
    run = runner or program_runner(stack, wide(stack), seed)
    base = run(wide(stack))
    if not all(bool(torch.isfinite(b).all()) for b in base):
        raise ConversionError("the network's outputs are not finite on random inputs: its symmetry cannot be verified")
    law = stack.spec.law
    moving = [g.id for g in law.groups if g.permutable or law.gauges_of[g.id]]
    control = relative_error(base, run(disturbed(wide(stack))))
    if not each:
        joint = _joint(law, run, base, stack, decades, draws, seed)
        if joint <= tolerance:
            return graph, Verification({}, joint, {}, tuple(moving), control)
    end = time.monotonic() + seconds
    errors: dict[str, float] = {}
    demoted: dict[str, float] = {}
    joint = float("inf")
    for first in (seed, seed + 1000):  # a few draws may spare a false claim: more where the joint check fails
        for name in (name for name in moving if name not in demoted):
            if time.monotonic() > end:
                break
            count = draws if first == seed else 4 * draws
            found = [random_law_element(law, decades, first + d, groups={name}) for d in range(count)]
            errors[name] = max(errors.get(name, 0.0), *(_error(run, base, element, stack) for element in found))
        failed = {name: e for name, e in errors.items() if not e <= tolerance and name not in demoted}
        law, demoted = demote(law, failed), {**demoted, **failed}
        joint = _joint(law, run, base, stack, decades, draws, seed)
        if not joint <= tolerance and (law.families or law.exchanges):
            why = f"exchanges of parts changed the output ({joint:.1e})"
            law = replace(law, families=(), exchanges=(), notes=(*law.notes, why))
            joint = _joint(law, run, base, stack, decades, draws, seed)
        if joint <= tolerance:
            break
    if not joint <= tolerance:  # together they fail: nothing is claimed
        left = {name: joint for name in moving if name not in demoted}
        law, demoted = demote(law, left), {**demoted, **left}
        joint = _joint(law, run, base, stack, decades, draws, seed)
    report = Verification(errors, joint, demoted, tuple(n for n in moving if n not in errors), control)
    return (graph if law == stack.spec.law else with_law(graph, law)), report


def wide(stack: TracedStack, element: LawElement | None = None) -> Moved:
    """The first network's weights in float64, moved by an element."""
    return Moved(tuple(stack.tensors), lambda name: stack.tensors[name][0].to(torch.float64), element)


def disturbed(tensors: Mapping[str, Tensor]) -> Moved:
    """Every entry made up to 30 % larger or smaller, each by another factor."""

    def read(name: str) -> Tensor:
        value = tensors[name]
        wave = torch.arange(1, value.numel() + 1, dtype=torch.float64, device=value.device).sin()
        return value * (1.0 + 0.3 * wave.view(value.shape)) if value.is_floating_point() else value

    return Moved(tuple(tensors), read)


def _joint(
    law: SymmetryLaw, run: Runner, base: tuple[Tensor, ...], stack: TracedStack, decades: float, draws: int, seed: int
) -> float:
    elements = [random_law_element(law, decades, seed + 100 + d) for d in range(draws)]
    return max(_error(run, base, element, stack) for element in elements)


def _error(run: Runner, base: tuple[Tensor, ...], element: LawElement, stack: TracedStack) -> float:
    return relative_error(base, run(wide(stack, element)))


def relative_error(base: tuple[Tensor, ...], moved: tuple[Tensor, ...]) -> float:
    """``max |moved - base| / max |base|``, the worst of all outputs; infinite where one is not finite."""
    worst = 0.0
    for a, b in zip(base, moved, strict=True):
        if not b.numel():
            continue
        if not bool(torch.isfinite(b).all()):
            return float("inf")
        difference = (a.double() - b.double()).abs().max()
        worst = max(worst, float(difference / a.double().abs().max().clamp(min=1e-30)))
    return worst


def program_runner(stack: TracedStack, tensors: Mapping[str, Tensor], seed: int = 0) -> Runner:
    """Run the traced program on random inputs of the example's shapes, on which these tensors give finite outputs.

    Tried are normal numbers, then numbers in [0, 1] (an input may enter a logarithm), then the example itself.

    Raises:
        ConversionError: outputs are never finite.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(draw: Callable[..., Tensor]) -> list[Tensor]:
        return [
            draw(x.shape, generator=generator, dtype=torch.float64) if x.is_floating_point() else x
            for x in stack.inputs
        ]

    for inputs in (drawn(torch.randn), drawn(torch.rand), list(stack.inputs)):

        def run(tensors: Mapping[str, Tensor], inputs: list[Tensor] = inputs) -> tuple[Tensor, ...]:
            with torch.no_grad():
                found = run_program(stack.spec, tensors, stack.extra, inputs)
            return tuple(x for x in found if isinstance(x, Tensor) and x.is_floating_point())

        if all(bool(torch.isfinite(y).all()) for y in run(tensors)):
            return run
    raise ConversionError("the network's outputs are not finite on random inputs: its symmetry cannot be verified")


def demote(law: SymmetryLaw, failed: Mapping[str, float]) -> SymmetryLaw:
    """The law without the symmetry of some groups; it says so in its notes."""
    if not failed:
        return law
    why = {name: f"failed verification: outputs changed by {error:.1e}" for name, error in failed.items()}
    groups = tuple(replace(g, permutable=False, reason=why[g.id]) if g.id in failed else g for g in law.groups)
    lost = {v.id for v in law.gauges if v.group in failed}
    legs = tuple(
        replace(
            leg,
            scale=tuple((v, p) for v, p in leg.scale if v not in lost),
            sign=tuple(v for v in leg.sign if v not in lost),
        )
        for leg in law.legs
    )
    families = tuple(f for f in law.families if not any(g in failed for bundle in f for g in bundle))
    notes = (*law.notes, *(f"group {name!r} {text}" for name, text in why.items()))
    gauges = tuple(v for v in law.gauges if v.id not in lost)
    return SymmetryLaw(groups, gauges, legs, families, notes, law.exchanges)


def with_law(graph: NeuralGraph, law: SymmetryLaw) -> NeuralGraph:
    """A traced network with another law."""
    stack = graph.stacks()[0]
    assert isinstance(stack.spec, TracedSpec)
    return NeuralGraph.from_stacks([replace(stack, spec=traced_spec(law, stack.spec.program, dict(stack.spec.shapes)))])
