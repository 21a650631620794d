"""Is every way from weights to a graph and back exact to the bit?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from graphnfn.graph import NeuralGraph

Source = Mapping[str, Tensor] | nn.Module


class Restore(Protocol):
    """Writes a graph's weights back in the form of a source."""

    def __call__(self, graph: NeuralGraph, *, like: Source) -> Mapping[str, Tensor]: ...


def assert_roundtrip(
    source: NeuralGraph | Source,
    convert: Callable[[Source], NeuralGraph] | None = None,
    restore: Restore | None = None,
) -> NeuralGraph:
    """Check that nothing is lost between a state dict, its graph, the graph's flat fields and batches.

    With ``source`` a graph: its flat fields, its stacks, its state dicts, ``to_data_list`` and batching agree bit
    by bit. With ``convert`` and ``restore``, e.g. those of the converters package: also
    ``restore(convert(source), like=source)`` has the keys, their order, the shapes, dtypes and bits of the source.

    Args:
        source: a graph, or a state dict or module together with the two functions.
        convert: source -> graph.
        restore: graph -> state dict, called with ``like=source``.

    Returns:
        The graph.

    Raises:
        AssertionError: something differs; the message says what and where.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> assert_roundtrip(random_graph(mlp_spec([2, 8, 1], "tanh"), networks=3))
        NeuralGraph(networks=3, neurons=33, edges=72)
    """
    if isinstance(source, NeuralGraph):
        graph = source
    else:
        if convert is None or restore is None:
            raise TypeError("assert_roundtrip needs convert and restore for a source that is no NeuralGraph")
        graph = convert(source)
        state = source.state_dict() if isinstance(source, nn.Module) else source
        _same_dicts(restore(graph, like=source), state, "restore(convert(source))")
    _check_graph(graph)
    return graph


def _check_graph(graph: NeuralGraph) -> None:
    singles = graph.to_data_list()
    for place, single in enumerate(singles):
        state = single.state_dict()
        rebuilt = NeuralGraph.build(single.spec, state)
        _same_dicts(rebuilt.state_dict(), state, f"network {place}, state dict -> graph -> state dict")
        _same_graphs(rebuilt, single, f"network {place}, rebuilt from its state dict")
    flat = NeuralGraph.from_stacks(graph.stacks(), graph.members())
    flat.stores  # noqa: B018  (makes the flat fields, which the stacks are then read back from)
    _same_graphs(flat, graph, "stacks -> flat fields -> stacks")
    _same_graphs(NeuralGraph.collate(singles), graph, "batch of to_data_list()")


def _same_graphs(got: NeuralGraph, want: NeuralGraph, where: str) -> None:
    if got.specs != want.specs:
        raise AssertionError(f"{where}: the specs differ")
    for a, b in zip(got.stacks(), want.stacks(), strict=True):
        names = ["node parameters", *(block.param for block in b.spec.blocks)]
        for name, x, y in zip(names, (a.nodes, *a.blocks), (b.nodes, *b.blocks), strict=True):
            _same_bits(x, y, f"{where}: {name}")


def _same_dicts(got: Mapping[str, Tensor], want: Mapping[str, Tensor], where: str) -> None:
    if list(got) != list(want):
        raise AssertionError(f"{where}: keys {list(got)} instead of {list(want)}")
    for name, value in want.items():
        _same_bits(got[name], value, f"{where}: {name}")


def _same_bits(got: Tensor, want: Tensor, where: str) -> None:
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        raise AssertionError(f"{where}: {got.dtype} {list(got.shape)} instead of {want.dtype} {list(want.shape)}")
    wrong = int((_bits(got) != _bits(want)).sum())
    if wrong:
        raise AssertionError(f"{where}: {wrong} bytes of {want.numel() * want.element_size()} differ")


def _bits(values: Tensor) -> Tensor:
    """Bytes rather than numbers: 0.0 and -0.0 differ, NaN equals itself."""
    dense = values.detach().cpu().clone(memory_format=torch.contiguous_format)  # .contiguous() may keep odd strides
    return dense.reshape(-1).view(torch.uint8)
