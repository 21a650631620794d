"""Traced networks as graphs: what is found, moved, stored and given back."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphnfn as gn
from converters import ConversionError, convert, restore, verify
from converters.exchanges import with_exchanges
from converters.verify import demote, verify_graph, with_law
from graphnfn.errors import SpecError, SymmetryError
from graphnfn.law import Exchange, Leg, MoveGroup, Piece
from graphnfn.program import Program, operator
from graphnfn.running import run_traced
from graphnfn.symmetry.law_element import LawElement
from graphnfn.traced import TracedSpec, decode_spec

EXPECTED = {
    "residual": {(6, True, "nonzero nonzero positive positive"), (5, True, "nonzero positive"), (2, False, ""),
                 (3, False, "")},
    "grouped": {(4, True, "positive"), (6, True, "positive"), (2, False, ""), (3, False, "")},
    "transformer": {(4, True, "GL"), (12, True, "positive"), (8, False, "nonzero"), (8, False, "")},
    "llama": {(8, True, "nonzero nonzero sign"), (2, False, "nonzero"), (4, True, "GL"), (10, True, "nonzero"),
              (7, False, "")},
    "recurrent": {(5, True, "sign"), (3, False, ""), (2, False, "")},
    "experts": {(5, True, "positive"), (6, True, "sign"), (6, False, ""), (4, False, ""), (2, False, "")},
    "lowrank": {(3, True, "GL"), (5, False, ""), (6, False, "")},
}  # fmt: skip
FAMILIES = {"grouped": [2], "transformer": [2], "llama": [2]}
EXCHANGES = {"llama": [2, 2], "experts": [4]}
"""Queries of one key; experts."""


def _law(graph: gn.NeuralGraph):
    assert isinstance(graph.spec, TracedSpec)
    return graph.spec.law


def _difference(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


def test_the_symmetry_is_found_and_nothing_is_missed(name: str, graph: gn.NeuralGraph) -> None:
    law = _law(graph)
    found = {(g.size, g.permutable, " ".join(sorted(v.kind for v in law.gauges_of[g.id]))) for g in law.groups}
    assert found == EXPECTED[name]
    assert [len(f) for f in law.families] == FAMILIES.get(name, [])
    assert [len(e.parts) for e in law.exchanges] == EXCHANGES.get(name, [])


def test_the_real_module_confirms_it(graph: gn.NeuralGraph, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    report = verify(module, graph.spec, example_input=inputs)
    assert report.worst < 1e-12 and not report.demoted and report.errors


def test_elements_form_a_group(graph: gn.NeuralGraph) -> None:
    a, b = (gn.random_element(graph.spec, decades=1.0, seed=s) for s in (1, 2))
    assert isinstance(a, LawElement) and isinstance(b, LawElement)
    moved, twice = gn.act(a @ b, graph).state_dict(), gn.act(a, gn.act(b, graph)).state_dict()
    back = gn.act(a.inverse() @ a, graph).state_dict()
    for key, value in graph.state_dict().items():
        assert torch.allclose(moved[key], twice[key], rtol=1e-9, atol=1e-9)
        assert torch.allclose(back[key], value, rtol=1e-9, atol=1e-9)
    assert any(not torch.allclose(moved[k], v) for k, v in graph.state_dict().items())


def test_restoring_is_exact_and_moved_weights_compute_the_same(
    graph: gn.NeuralGraph, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    state = restore(graph, like=module)
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    other = copy.deepcopy(module)
    other.load_state_dict(restore(gn.act(gn.random_element(graph.spec, seed=3), graph), like=module))
    with torch.no_grad():
        assert torch.allclose(other(*inputs), module(*inputs), rtol=1e-9, atol=1e-10)


def test_tied_tensors_stay_tied() -> None:
    from tests.traced.conftest import network, traced  # type: ignore[import-not-found]

    state = restore(gn.act(gn.random_element(traced("llama").spec, seed=0), traced("llama")), like=network("llama")[0])
    assert state["embed.weight"] is state["head.weight"]


def test_files_and_batches(graph: gn.NeuralGraph, tmp_path: Path) -> None:
    batch = gn.NeuralGraph.batch([graph, gn.act(gn.random_element(graph.spec, seed=1), graph)])
    assert batch.validate()
    gn.save(batch, tmp_path / "graph.safetensors")
    again = gn.load(tmp_path / "graph.safetensors")
    assert again.spec == graph.spec and torch.equal(again.edge_attr, batch.edge_attr) and torch.equal(again.x, batch.x)
    one = again.to_data_list()[0]
    assert all(torch.equal(v, one.state_dict()[k]) for k, v in graph.state_dict().items())
    assert _difference(run_traced(one.stacks()[0]), run_traced(graph.stacks()[0])) < 1e-14


def test_every_weight_is_in_the_graph(graph: gn.NeuralGraph) -> None:
    stack = graph.stacks()[0]
    in_blocks = {b.param: 0 for b in stack.spec.blocks}
    for b, block in zip(stack.spec.blocks, stack.blocks, strict=True):
        in_blocks[b.param] += block.numel()
    for c in stack.spec.columns:
        n = 1 if c.axis < 0 else stack.spec.law.by_id[c.group].size
        in_blocks[c.param] = in_blocks.get(c.param, 0) + n * c.width
    assert in_blocks == {name: t.numel() for name, t in stack.tensors.items()}


def test_a_spec_survives_json(graph: gn.NeuralGraph) -> None:
    spec = decode_spec(graph.spec.to_json())
    assert spec == graph.spec and hash(spec) == hash(graph.spec)
    with pytest.raises(SpecError, match="no spec"):
        decode_spec('{"traced": 1}')


def test_a_program_calls_aten_only() -> None:
    with pytest.raises(SpecError, match="no ATen operator"):
        operator("os.system")
    with pytest.raises(SpecError, match="no ATen operator"):
        operator("aten.__class__.x()")
    with pytest.raises(SpecError, match="not a Program"):
        Program.from_json("{}")


def test_a_false_claim_is_caught_and_given_up(module: nn.Module, graph: gn.NeuralGraph, name: str) -> None:
    """Negative control: every fixed group is claimed to be permutable."""
    law = _law(graph)
    wrong = replace(law, groups=tuple(replace(g, permutable=True) for g in law.groups))
    fixed = {g.id for g in law.groups if not g.permutable and g.size > 1}
    kept, report = verify_graph(with_law(graph, wrong))
    assert set(report.demoted) == fixed and min(report.demoted.values()) > 1e-4
    assert report.worst < 1e-9
    assert {g.id for g in _law(kept).groups if g.permutable} == {g.id for g in law.groups if g.permutable}
    assert all("failed verification" in note for note in _law(kept).notes) and len(_law(kept).notes) == len(fixed)


def test_a_false_scale_is_caught(name: str, graph: gn.NeuralGraph) -> None:
    """Negative control: signs count as scales."""
    law = _law(graph)
    legs = tuple(
        replace(leg, scale=leg.scale or tuple((g, 1.0 if leg.dst else -1.0) for g in leg.sign),
                sign=leg.sign or tuple(g for g, _ in leg.scale)) for leg in law.legs
    )  # fmt: skip
    wrong = replace(law, legs=legs, gauges=tuple(replace(v, scale=True, sign=True) for v in law.gauges))
    false = {v.group for v in law.gauges if v.kind in ("sign", "positive")}
    report = verify_graph(with_law(graph, wrong))[1]
    assert set(report.demoted) == false


def test_the_quick_check_looks_closer_where_it_fails(graph: gn.NeuralGraph) -> None:
    law = _law(graph)
    _, report = verify_graph(graph, each=False)
    assert not report.errors and report.joint < 1e-9 and report.unchecked
    wrong = replace(law, groups=tuple(replace(g, permutable=True) for g in law.groups))
    _, report = verify_graph(with_law(graph, wrong), each=False)
    assert set(report.demoted) == {g.id for g in law.groups if not g.permutable and g.size > 1}


def test_demoting_nothing_changes_nothing(graph: gn.NeuralGraph) -> None:
    assert demote(_law(graph), {}) is _law(graph)


def test_canonical_forms_agree_on_an_orbit(graph: gn.NeuralGraph) -> None:
    canonical, element = gn.canonicalize(graph)
    assert _difference(run_traced(canonical.stacks()[0]), run_traced(graph.stacks()[0])) < 1e-9
    drawn = gn.random_element(graph.spec, decades=3.0, seed=4)
    assert isinstance(drawn, LawElement)
    scales = replace(drawn, source={}, perm={}, order={}, factor={k: v.abs() for k, v in drawn.factor.items()})
    other, _ = gn.canonicalize(gn.act(scales, graph))
    back = gn.act(element.inverse(), canonical).state_dict()
    for key, value in canonical.state_dict().items():
        assert torch.allclose(other.state_dict()[key].abs(), value.abs(), rtol=1e-7, atol=1e-9), key
        assert torch.allclose(back[key], graph.state_dict()[key], rtol=1e-8, atol=1e-9)


def test_moves_outside_the_group_are_refused(graph: gn.NeuralGraph) -> None:
    law = _law(graph)
    fixed = next(g for g in law.groups if not g.permutable and g.size > 1)
    with pytest.raises(SymmetryError, match="cannot be permuted"):
        LawElement(law, perm={fixed.id: torch.arange(fixed.size).flip(0)})
    free = next(g for g in law.groups if g.permutable)
    with pytest.raises(SymmetryError, match="no permutation"):
        LawElement(law, perm={free.id: torch.zeros(free.size, dtype=torch.long)})


def test_traced_fields_are_read_only(graph: gn.NeuralGraph) -> None:
    with pytest.raises(SpecError, match="read only"):
        gn.NeuralGraph.batch([graph]).x = torch.zeros(1)


def test_bad_requests() -> None:
    from tests.traced.conftest import Residual  # type: ignore[import-not-found]

    with pytest.raises(ConversionError, match="give example_input="):
        convert(Residual())
    with pytest.raises(ConversionError, match="does not run"):
        convert(Residual(), example_input=torch.randn(2, 9, 6, 6))
    with pytest.raises(ConversionError, match="fold_norm"):
        convert(Residual(), example_input=torch.randn(2, 2, 6, 6), fold_norm=True)
    broken = Residual()
    broken.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ConversionError, match=r"'head.weight' has 1 NaN"):
        convert(broken, example_input=torch.randn(2, 2, 6, 6))


@torch.library.custom_op("graphnfn_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(twice(self.one(x)))


def test_operators_of_other_libraries_are_named() -> None:
    with pytest.raises(ConversionError, match="graphnfn_tests.twice.default .* none of PyTorch's own"):
        convert(Foreign(), example_input=torch.randn(2, 3))


@pytest.mark.parametrize("compiled", [False, True], ids=["traced", "scripted"])
def test_torchscript(compiled: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    ).eval()
    inputs = torch.randn(2, 3, 8, 8)
    script = torch.jit.script(module) if compiled else torch.jit.trace(module, inputs)
    graph = convert(script, example_input=inputs)
    assert {g.size for g in _law(graph).groups if g.permutable} == {8}
    assert sorted(v.kind for v in _law(graph).gauges) == ["nonzero", "positive"]
    state = restore(graph, like=script)
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())


def test_a_false_exchange_is_caught(module: nn.Module, graph: gn.NeuralGraph) -> None:
    """Negative control: the first two rows of the first matrix, and nothing that follows."""
    law = _law(graph)
    name, shape = next((n, s) for n, s in graph.spec.shapes if len(s) > 1 and s[0] > 1)  # type: ignore[attr-defined]
    assert shape[0] > 1
    wrong = Exchange("rows", tuple((Piece(name, 0, ((k, k + 1),)),) for k in (0, 1)))
    kept, report = verify_graph(with_law(graph, replace(law, exchanges=(wrong,), families=())), each=False)
    assert report.worst < 1e-9 and not _law(kept).exchanges
    assert any("exchanges of parts changed the output" in note for note in _law(kept).notes)


def test_exchanges_are_searched_with_limited_effort(graph: gn.NeuralGraph) -> None:
    plain = with_law(graph, replace(_law(graph), exchanges=()))
    assert not _law(with_exchanges(plain, tests=0)).exchanges
    assert [e.parts for e in _law(with_exchanges(plain)).exchanges] == [e.parts for e in _law(graph).exchanges]


class _Silent(nn.Module):
    """Weights that do not matter: any claim on them would pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return 1e-30 * self.b(torch.relu(self.a(x))) + x[:, :2]


def test_a_check_that_cannot_fail_shows(graph: gn.NeuralGraph) -> None:
    """The control says by how much other weights change the outputs."""
    inputs = torch.randn(3, 4)
    silent = convert(_Silent(), example_input=inputs)
    assert verify_graph(silent)[1].control < 1e-15
    assert verify_graph(graph)[1].control > 1e-4


def test_a_claim_that_most_elements_spare_is_caught() -> None:
    """All permutations of four neurons are claimed, where those hold that keep two pairs: a third of them."""

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(-1, 2, 2).sum(-1).tanh().sum(1, keepdim=True).expand(-1, 2))

    graph = convert(Pairs(), example_input=torch.randn(5, 3))
    law = _law(graph)
    rows = MoveGroup("rows", 4, True)
    legs = [Leg("a.weight", 0, "rows", (0,), 1), Leg("a.bias", 0, "rows", (0,), 1)]
    false = replace(law, groups=(rows,), gauges=(), legs=tuple(legs), families=(), exchanges=())
    for seed in range(6):
        kept, report = verify_graph(with_law(graph, false), seed=seed)
        assert "rows" in report.demoted and report.worst < 1e-9 and not _law(kept).groups[0].permutable
