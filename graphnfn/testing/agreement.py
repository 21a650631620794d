"""Do two things that should be the same agree: functions, and outputs alone and in company?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graphnfn.errors import GraphNFNError
from graphnfn.functional import input_shape, run
from graphnfn.graph import NeuralGraph
from graphnfn.testing.compare import MetaModule, Output, evaluate, worst

Runnable = NeuralGraph | Callable[[Tensor], Tensor]

_SAMPLES = 64


def assert_same_function(
    a: Runnable, b: Runnable, inputs: Tensor | None = None, *, rtol: float = 1e-10, seed: int = 0
) -> float:
    """Check that two networks compute the same, and return the relative difference.

    The error is ``max |a(x) - b(x)| / max |b(x)|`` over inputs and outputs, per network.

    Args:
        a: a graph of one or more networks, or a callable such as a module in eval mode.
        b: the same; graphs are compared network by network, a graph of one network also with a callable.
        inputs: ``[n, ...]``; by default standard normal ones of the shape that a graph's spec tells.
        rtol: largest error allowed.
        seed: of the random inputs.

    Raises:
        AssertionError: they differ by more; the message names the worst network.
        SpecError: a graph's spec does not tell how to run it, or on what.
        GraphNFNError: inputs are needed and not given, or the numbers of networks differ.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph, random_transform
        >>> graph = random_graph(mlp_spec([2, 8, 1], "relu"), networks=2)
        >>> assert_same_function(graph, random_transform(graph)) < 1e-12
        True
    """
    first, second = _outputs(a, b, inputs, seed), _outputs(b, a, inputs, seed)
    if len(first) != len(second):
        raise GraphNFNError(f"compared {len(first)} networks with {len(second)}: give the same number")
    largest, place = 0.0, 0
    for network, (x, y) in enumerate(zip(first, second, strict=True)):
        if x.shape != y.shape:
            raise AssertionError(f"network {network}: outputs of shapes {list(x.shape)} and {list(y.shape)}")
        gap, scale = float((x - y).abs().max()), float(y.abs().max())
        error = gap / scale if scale else (0.0 if gap == 0 else torch.inf)
        if not error <= largest:
            largest, place = error, network
    if not largest <= rtol:
        raise AssertionError(f"different functions: network {place} has relative error {largest:.2e} > {rtol:.0e}")
    return largest


def _outputs(target: Runnable, other: Runnable, inputs: Tensor | None, seed: int) -> list[Tensor]:
    """The outputs of every network, ``[n, ...]`` each."""
    if isinstance(target, NeuralGraph):
        out: list[Tensor] = [torch.empty(0)] * target.num_graphs
        for stack, places in zip(target.stacks(), target.members(), strict=True):
            given = _random_inputs(input_shape(stack.spec), seed) if inputs is None else inputs
            rows = run(stack, given.to(stack.nodes)).detach().double()
            for place, row in zip(places.tolist(), rows, strict=True):
                out[place] = row
        return out
    if inputs is None:
        if not isinstance(other, NeuralGraph):
            raise GraphNFNError("two callables have no known input shape: give inputs=")
        stack = other.stacks()[0]
        inputs = _random_inputs(input_shape(stack.spec), seed).to(stack.nodes)
    with torch.no_grad():
        return [target(inputs).double()]


def _random_inputs(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_SAMPLES, *shape, generator=generator, dtype=torch.float64)


def assert_batch_independent(
    module: MetaModule, graphs: Sequence[NeuralGraph], *, tol: float = 1e-6, seed: int = 0, draws: int = 3
) -> float:
    """Check that a network's output does not depend on its company or its place in a batch.

    Every network is evaluated alone, then in the given order, in reverse, and in random batches with repetitions.

    Args:
        module: maps a NeuralGraph to a tensor ``[networks, ...]`` or to a NeuralGraph.
        graphs: two or more single networks, best of several architectures.
        tol: largest relative error allowed, per network.
        seed: of the random batches.
        draws: number of random batches.

    Returns:
        The largest relative error.

    Raises:
        AssertionError: an output depends on the batch; the message names the network and the batch.
        GraphNFNError: there are fewer than two networks.
    """
    if len(graphs) < 2:
        raise GraphNFNError(f"got {len(graphs)} network: give two at least, or there is no batch to depend on")
    alone = [evaluate(module, g) for g in graphs]
    count, generator = len(graphs), torch.Generator().manual_seed(seed)
    orders = [list(range(count)), list(range(count))[::-1]]
    orders += [torch.randint(count, (count + 1,), generator=generator).tolist() for _ in range(draws)]
    largest = 0.0
    for order in orders:
        together = _split(evaluate(module, NeuralGraph.collate([graphs[i] for i in order])))
        for place, i in enumerate(order):
            finding = worst(together[place], alone[i])
            if not finding.error <= tol:
                raise AssertionError(
                    f"network {i} differs at place {place} of batch {order} from its output alone: {finding.part}, "
                    f"relative error {finding.error:.2e} > {tol:.0e}"
                )
            largest = max(largest, finding.error)
    return largest


def _split(output: Output) -> list[Output]:
    return list(output.split(1)) if isinstance(output, Tensor) else list(output.to_data_list())


def assert_pure(module: MetaModule, graph: NeuralGraph) -> None:
    """Check that a module leaves the graph that it reads alone.

    Args:
        module: maps a NeuralGraph to anything.
        graph: its input.

    Raises:
        AssertionError: a field was changed, added or removed.
    """
    before = {n: v.clone() if isinstance(v, Tensor) else v for n, v in _fields(graph).items()}
    with torch.no_grad():
        module(graph)
    after = _fields(graph)
    if set(after) != set(before):
        raise AssertionError(f"the module added or removed fields: {sorted(set(after) ^ set(before))}")
    for name, value in before.items():
        now = after[name]
        if isinstance(value, Tensor) and isinstance(now, Tensor):
            same = torch.equal(value, now)
        else:
            same = value == now
        if not same:
            raise AssertionError(f"the module changed {name!r} of its input")


def _fields(graph: NeuralGraph) -> dict[str, object]:
    return {name: graph[name] for name in graph.keys()}
