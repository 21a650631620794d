"""Zoo: what was written comes back, in the order that was asked for, whatever the layout on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from graphnfn.errors import ZooError
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo
from graphnfn.zoo.splits import belonging
from graphnfn.zoo.weights import ZooWeights


@pytest.fixture(params=["same_shapes", "other_shapes"])
def stacks(request: pytest.FixtureRequest) -> list[Stack]:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[None, 2, 4])
def zoo(request: pytest.FixtureRequest, tmp_path: Path, stacks: list[Stack], table: pd.DataFrame) -> Zoo:
    Zoo.write(tmp_path / "zoo", stacks, table, about={"of": "tests"}, networks_per_file=request.param)
    return Zoo.open(tmp_path / "zoo")


def _reference(stacks: list[Stack], table: pd.DataFrame) -> list[NeuralGraph]:
    """Every network on its own, by a loop over the table."""
    seen, out = [0] * len(stacks), []
    for s in table["spec"]:
        out.append(NeuralGraph.from_stacks([stacks[s].take(slice(seen[s], seen[s] + 1))]))
        seen[s] += 1
    return out


def _same(batch: NeuralGraph, networks: list[NeuralGraph]) -> bool:
    both = NeuralGraph.batch(networks)
    return batch.specs == both.specs and torch.equal(batch.x, both.x) and torch.equal(batch.edge_attr, both.edge_attr)


@pytest.mark.parametrize("rows", [slice(None), slice(2, 7), slice(8, 1, -3), [4], [8, 0, 3, 3, 1], [5, 6, 7]])
def test_a_batch_holds_the_chosen_networks_in_order(
    zoo: Zoo, stacks: list[Stack], table: pd.DataFrame, rows: slice | list[int]
) -> None:
    reference = _reference(stacks, table)
    chosen = reference[rows] if isinstance(rows, slice) else [reference[r] for r in rows]
    assert _same(zoo.batch(rows), chosen)
    assert not _same(zoo.batch(rows), chosen[1:] + chosen[:1]) or len(chosen) == 1  # the comparison can fail
    if not isinstance(rows, slice):
        assert _same(zoo.batch(torch.tensor(rows)), chosen)
        assert _same(zoo.batch(np.array(rows)), chosen)


def test_a_subset_is_a_zoo(zoo: Zoo, stacks: list[Stack], table: pd.DataFrame) -> None:
    reference = _reference(stacks, table)
    part = zoo.subset([7, 2, 3, 4]).subset(slice(1, None))
    assert len(part) == 3
    assert _same(part.batch([2, 0]), [reference[4], reference[2]])
    assert part.table["score"].tolist() == table["score"].iloc[[2, 3, 4]].tolist()
    assert part.spec_index.tolist() == table["spec"].iloc[[2, 3, 4]].tolist()


@pytest.mark.parametrize("rows", [slice(None), slice(2, 7), [4], [8, 0, 3, 3, 1], [5, 6, 7]])
def test_networks_in_memory_take_the_place_of_those_on_disk(
    zoo: Zoo, stacks: list[Stack], table: pd.DataFrame, rows: slice | list[int]
) -> None:
    other = zoo.batch(slice(None)).map_stacks(lambda s: s.apply(lambda t: t + 1))
    held, there = zoo.with_networks(other), [s.apply(lambda t: t + 1) for s in stacks]
    reference = _reference(there, table)
    assert _same(held.batch(rows), reference[rows] if isinstance(rows, slice) else [reference[r] for r in rows])
    assert _same(zoo.batch([1]), [_reference(stacks, table)[1]])  # the zoo itself stays
    assert set(held.specs) == set(zoo.specs)
    assert [held.specs[s] for s in held.spec_index] == [zoo.specs[s] for s in zoo.spec_index]
    part = held.with_split(0).subset([7, 2, 3])
    assert _same(part.batch([2, 0]), [reference[3], reference[7]]) and "split" in part.table
    assert part.labels("score").tolist() == pytest.approx(table["score"].iloc[[7, 2, 3]].tolist())


def test_as_many_networks_as_rows(zoo: Zoo) -> None:
    with pytest.raises(ZooError, match="got 2 networks for a table of 9 rows"):
        zoo.with_networks(zoo.batch([0, 1]))


def test_facts_and_labels(zoo: Zoo, stacks: list[Stack], table: pd.DataFrame) -> None:
    assert zoo.specs == tuple(s.spec for s in stacks)
    assert zoo.about == {"of": "tests"}
    assert torch.equal(zoo.labels("score"), torch.tensor(table["score"]).float())
    assert zoo.labels("spec", [2, 0]).tolist() == [0, 1]
    assert zoo.batch(zoo.labels("score") > 0.7).num_graphs == 3  # a mask


def test_consecutive_rows_are_views_of_the_file(tmp_path: Path, other_shapes: list[Stack]) -> None:
    Zoo.write(tmp_path / "zoo", other_shapes[:1], pd.DataFrame({"score": range(5)}))
    zoo = Zoo.open(tmp_path / "zoo")
    whole, part, gathered = (zoo.batch(rows).stacks()[0].blocks[0] for rows in (slice(None), slice(2, 4), [2, 4]))
    assert part.data_ptr() == whole[2].data_ptr()
    assert gathered.data_ptr() != whole[2].data_ptr()


@pytest.mark.parametrize("most", [2**24, 0])
def test_batches_are_copies_whatever_is_kept_in_memory(
    tmp_path: Path, stacks: list[Stack], table: pd.DataFrame, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphnfn.zoo.weights.MOST_NODES", most)
    Zoo.write(tmp_path / "zoo", stacks, table)
    zoo, rows = Zoo.open(tmp_path / "zoo"), [8, 1, 5, 0]  # of no spec are they consecutive
    reference = _reference(stacks, table)
    for stack in zoo.batch(rows).stacks():
        for tensor in (stack.nodes, *stack.blocks):
            tensor.fill_(7.0)
    assert _same(zoo.batch(rows), [reference[r] for r in rows])
    assert isinstance(zoo._weights, ZooWeights) and (zoo._weights._whole[0] is None) == (most == 0)


def test_splits(zoo: Zoo) -> None:
    with pytest.raises(ZooError, match="with_split"):
        zoo.split("train")
    split = zoo.with_split(seed=3, fractions=(0.5, 0.2, 0.3))
    rows = [split.split(name) for name in ("train", "val", "test")]
    assert sorted(torch.cat(rows).tolist()) == list(range(9))
    assert torch.equal(zoo.with_split(seed=3, fractions=(0.5, 0.2, 0.3)).split("train"), rows[0])
    assert "split" not in zoo.table
    assert split.subset(rows[1]).table["split"].tolist() == ["val"] * len(rows[1])
    with pytest.raises(ZooError, match="sum to 1"):
        zoo.with_split(fractions=(0.5, 0.2, 0.2))
    with pytest.raises(ZooError, match="'dev'"):
        split.split("dev")


def test_a_fresh_split_keeps_together_what_belongs_together(
    tmp_path: Path, same_shapes: list[Stack], table: pd.DataFrame
) -> None:
    """Three checkpoints of each training; a number of an image tells only with the set that it is from."""
    several = table.assign(trial=[f"t{k // 3}" for k in range(9)], epoch=[1, 2, 3] * 3)
    Zoo.write(tmp_path / "zoo", same_shapes, several)
    zoo = Zoo.open(tmp_path / "zoo").with_split(seed=1, fractions=(1 / 3, 1 / 3, 1 / 3))
    assert zoo.table.groupby("trial")["split"].nunique().tolist() == [1, 1, 1]
    assert sorted(zoo.table["split"].unique()) == ["test", "train", "val"]
    sets = table.assign(image_set=["a", "b"] * 4 + ["a"], image=[0, 0, 1, 1, 2, 2, 0, 0, 1])
    assert belonging(sets).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_a_fresh_split_of_single_networks_is_the_one_it_always_was(zoo: Zoo) -> None:
    """Stored results were measured on it."""
    names = np.repeat(["train", "val", "test"], [5, 1, 3])
    expected = names[np.random.default_rng(7).permutation(9)].tolist()
    assert zoo.with_split(seed=7, fractions=(0.55, 0.12, 0.33)).table["split"].tolist() == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no network"), ([9], "9 networks"), ([-1], "-1"), ([0.5], "float64"), ([True, False], "mask of 9")],
)
def test_bad_rows(zoo: Zoo, rows: list[float], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        zoo.batch(rows)


def test_bad_labels(tmp_path: Path, other_shapes: list[Stack]) -> None:
    table = pd.DataFrame({"name": list("abcde"), "score": [0.0, 1.0, None, 3.0, 4.0]})
    Zoo.write(tmp_path / "zoo", other_shapes[:1], table)
    zoo = Zoo.open(tmp_path / "zoo")
    for column, message in (("size", "has no column"), ("name", "expected numbers"), ("score", "1 missing")):
        with pytest.raises(ZooError, match=message):
            zoo.labels(column)
    assert zoo.labels("score", [0, 3]).tolist() == [0.0, 3.0]


def test_not_finite_weights_are_found(tmp_path: Path, same_shapes: list[Stack], table: pd.DataFrame) -> None:
    Zoo.write(tmp_path / "good", same_shapes, table)
    Zoo.open(tmp_path / "good").validate()
    same_shapes[1].blocks[0][2, 0, 0, 0] = float("nan")
    same_shapes[0].nodes[3, -1, 0] = float("inf")
    Zoo.write(tmp_path / "bad", same_shapes, table)
    with pytest.raises(ZooError, match=r"2 networks .* rows \[5, 7\]"):
        Zoo.open(tmp_path / "bad").validate()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count", "kinds", "output", "input_shape"),
    [
        ("fmnist_cnn", 960, ["relu", "tanh"], "identity", (1, 28, 28)),
        ("fmnist_siren", 5000, ["sin(30)"], "identity", (2,)),
        ("thingi10k_sdf", 2500, ["relu"], "tanh", (3,)),
    ],
)
def test_the_shared_zoos(
    shared: Path, name: str, count: int, kinds: list[str], output: str, input_shape: tuple[int, ...]
) -> None:
    zoo = Zoo.open(shared / "zoos" / name)
    assert len(zoo) == count
    assert [str(s.groups[1].activations[0]) for s in zoo.specs] == kinds
    assert {str(s.groups[-1].activations[0]) for s in zoo.specs} == {output}
    assert {s.input_shape for s in zoo.specs} == {input_shape}
    rows = zoo.split("test")[:5]
    assert zoo.batch(rows).validate()
    if len(kinds) > 1:
        told = zoo.table["activation"].iloc[rows.numpy()].tolist()
        assert [str(s.groups[1].activations[0]) for s in zoo.batch(rows).specs] == told
        assert {b.conv.stride for b in zoo.specs[0].blocks if b.conv} == {(2, 2)}
