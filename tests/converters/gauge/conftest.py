"""What every test of the inference does: trace, infer, move the weights, run, compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from converters.exchanges import with_exchanges
from converters.trace import Traced, trace_module
from converters.traced import graph_of, infer_law
from graphnfn.errors import ConversionError
from graphnfn.law import SymmetryLaw
from graphnfn.program import execute
from graphnfn.symmetry.law_element import LawElement, random_law_element
from graphnfn.traced import TracedSpec

TOLERANCE = 1e-9


@dataclass
class Found:
    """A traced network in float64 with its law."""

    traced: Traced
    law: SymmetryLaw

    def outputs(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        inputs = [x.clone() for x in self.traced.inputs]
        torch.manual_seed(0)
        return [y for y in execute(self.traced.program, tensors, inputs, self.traced.constants) if y is not None]

    def error(self, element: LawElement) -> float:
        """Worst relative change of an output when the weights move."""
        before, after = self.outputs(self.traced.tensors), self.outputs(element.act(self.traced.tensors))
        scale = [a.double().abs().max().clamp(min=1e-30) for a in before]
        return max(float((a.double() - b).abs().max() / s) for a, b, s in zip(before, after, scale, strict=True))

    def errors(self) -> dict[str, float]:
        """Group -> error of a random element of it alone, and "all" -> of all groups and families together."""
        law = self.law
        alone = [g.id for g in law.groups if g.permutable or law.gauges_of[g.id]]
        out = {g: self.error(random_law_element(law, 2.0, 0, groups={g})) for g in alone}
        out["all"] = max(self.error(random_law_element(law, 2.0, seed)) for seed in (1, 2))
        return out

    def moves(self) -> bool:
        """Whether a random element changes any weight: else the errors mean nothing."""
        moved = random_law_element(self.law, 2.0, 1).act(self.traced.tensors)
        return any(not torch.equal(moved[k], v) for k, v in self.traced.tensors.items())

    def summary(self) -> list[str]:
        """Groups with a symmetry and families, in short, e.g. ``2 x 8 permutation positive``."""
        lines: Counter[str] = Counter()
        for g in self.law.groups:
            kinds = sorted(v.kind for v in self.law.gauges_of[g.id])
            if g.permutable or kinds:
                lines[" ".join([str(g.size), *(["permutation"] if g.permutable else []), *kinds])] += 1
        for family in self.law.families:
            sizes = sorted(self.law.by_id[g].size for g in family[0])
            lines[f"family of {len(family)} bundles {sizes}"] += 1
        for exchange in self.law.exchanges:
            lines[f"exchange of {len(exchange.parts)} parts in {len(exchange.parts[0])} pieces"] += 1
        return sorted(f"{n} x {line}" if n > 1 else line for line, n in lines.items())


def generic(module: nn.Module) -> nn.Module:
    """In float64, eval mode, without any special value in weights or statistics."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=generator, dtype=b.dtype))
            if name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=generator, dtype=b.dtype) + 0.5)
    return module


def find(module: nn.Module, *inputs: Tensor) -> Found:
    """Trace in float64 and infer."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    t = trace_module(generic(module), wide)
    try:
        spec = with_exchanges(graph_of(t, {})).spec
    except ConversionError:  # nothing in it can move
        return Found(t, infer_law(t))
    assert isinstance(spec, TracedSpec)
    return Found(t, spec.law)


@pytest.fixture
def find_law() -> Callable[..., Found]:
    return find


@pytest.fixture
def assert_law() -> Callable[..., Found]:
    """``assert_law(module, inputs, expected, unknown)``: claims hold on the weights and are those that are expected."""

    def check(module: nn.Module, inputs: tuple[Tensor, ...], expected: list[str], unknown: int = 0) -> Found:
        found = find(module, *inputs)
        errors = found.errors()
        bad = {group: error for group, error in errors.items() if not error <= TOLERANCE}
        assert not bad, f"these claims are wrong: {bad}"
        assert found.summary() == sorted(expected)
        assert not expected or found.moves()
        assert len(found.law.notes) == unknown, found.law.notes
        return found

    return check


@pytest.fixture(autouse=True)
def same_draw() -> None:
    torch.manual_seed(0)
