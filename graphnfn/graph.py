"""NeuralGraph: one or many networks as a PyG graph, with exact views back to their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphnfn import topology
from graphnfn.errors import SpecError
from graphnfn.export import to_networkx
from graphnfn.fields import (
    BATCHING,
    DERIVED,
    WEIGHTS,
    common_grid,
    first_problem,
    grid_slots,
    node_starts,
    places_by_spec,
)
from graphnfn.spec import NEUTRAL_NODE, NetSpec
from graphnfn.stack import Stack
from graphnfn.traced_stack import AnyStack, TracedStack, join, pack


class _BatchField:
    """``NeuralGraph.batch([...])`` collates; ``graph.batch`` is PyG's vector of graph numbers."""

    def __get__(self, graph: NeuralGraph | None, owner: type[NeuralGraph]) -> Any:
        return owner.collate if graph is None else graph._derived("batch")

    def __set__(self, graph: NeuralGraph, value: Tensor) -> None:
        graph._store["batch"] = value


def _weights(name: str) -> property:
    def read(self: NeuralGraph) -> Tensor:
        self._flatten()
        return self._store[name]

    def write(self: NeuralGraph, value: Tensor) -> None:
        if "stacks" in self._store:
            self._flatten()
            if "stacks" in self._store:
                raise SpecError(f"{name} of a traced network is read only: edit its stacks, or its tensors and convert")
        self._store[name] = value

    return property(read, write)


def _topology(name: str) -> property:
    def write(self: NeuralGraph, value: Tensor) -> None:
        self._store[name] = value

    return property(lambda self: self._derived(name), write)


class NeuralGraph(Data):
    """One network, or a batch of networks, as a plain PyG graph.

    Fields (N neurons, E edges, G networks, T taps of the common tap grid):

    - ``x [N, fields]`` node parameters (``graphnfn.spec.NODE_FIELDS``), ``edge_attr [E, T]`` weights,
      ``edge_mask [E, T]`` which taps exist, ``edge_index [2, E]``;
    - ``node_group, node_level, activation, gauge [N]``; ``batch [N]``, ``ptr [G + 1]``;
    - ``specs``: one NetSpec per network.

    Nodes are ordered by network, then group. Edges are block-major: within each run of networks of one
    spec [block][network][target][source], so that a block is a view, see :meth:`stacks`. Everything but
    the weights is made when first asked for.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 8, 1], "tanh")
        >>> graph = NeuralGraph.build(spec, {k: torch.randn(s) for k, s in spec.params.items()})
        >>> both = NeuralGraph.batch([graph, graph])
        >>> graph.edge_index.shape, both.num_graphs, both.x.shape
        (torch.Size([2, 24]), 2, torch.Size([22, 1]))
    """

    x: Tensor = _weights("x")  # type: ignore[assignment]
    edge_attr: Tensor = _weights("edge_attr")  # type: ignore[assignment]
    edge_index: Tensor = _topology("edge_index")  # type: ignore[assignment]
    edge_mask: Tensor = _topology("edge_mask")  # type: ignore[assignment]
    node_group: Tensor = _topology("node_group")  # type: ignore[assignment]
    node_level: Tensor = _topology("node_level")  # type: ignore[assignment]
    activation: Tensor = _topology("activation")  # type: ignore[assignment]
    gauge: Tensor = _topology("gauge")  # type: ignore[assignment]
    ptr: Tensor = _topology("ptr")  # type: ignore[assignment]
    batch: Any = _BatchField()

    # ---- construction -------------------------------------------------------------------------

    @classmethod
    def build(cls, spec: NetSpec, params: Mapping[str, Tensor]) -> NeuralGraph:
        """One network from its parameters by name.

        Raises:
            SpecError: a parameter is missing or has a wrong shape.
        """
        stacked = {name: params[name][None] for name in spec.params if name in params}
        return cls.from_stacks([pack(spec, stacked)])

    @classmethod
    def from_stacks(cls, stacks: Sequence[AnyStack], members: Sequence[Tensor] | None = None) -> NeuralGraph:
        """A batch from stacks of distinct specs.

        Args:
            stacks: one per spec.
            members: per stack, the ascending places of its networks in the batch (default: one after another).
        """
        graph = cls()
        if len(stacks) == 1:
            graph._store["stacks"], graph._store["specs"] = list(stacks), [stacks[0].spec] * stacks[0].size
            return graph
        total = sum(s.size for s in stacks)
        if members is None:
            members = list(torch.arange(total).split([s.size for s in stacks]))
        order = sorted(range(len(stacks)), key=lambda s: int(members[s][0]))
        runs = [members[s] for s in order]
        stacks = [stacks[s] for s in order]
        specs: list[Any] = [None] * total
        for stack, places in zip(stacks, runs, strict=True):
            for place in places.tolist():
                specs[place] = stack.spec
        graph._store["stacks"] = list(stacks)
        graph._store["specs"] = specs
        return graph

    @classmethod
    def collate(cls, graphs: Iterable[NeuralGraph]) -> NeuralGraph:
        """A batch from graphs (or batches) of any architectures; also called ``NeuralGraph.batch``.

        Raises:
            SpecError: there is nothing to batch.
        """
        graphs = list(graphs)
        if not graphs:
            raise SpecError("NeuralGraph.batch got no graph: give one at least")
        parts: dict[NetSpec, list[Any]] = {}
        places: dict[NetSpec, list[Tensor]] = {}
        start = 0
        for graph in graphs:
            for stack, members in zip(graph.stacks(), graph.members(), strict=True):
                parts.setdefault(stack.spec, []).append(stack)
                places.setdefault(stack.spec, []).append(members + start)
            start += graph.num_graphs
        stacks = [join(stacks) for stacks in parts.values()]
        return cls.from_stacks(stacks, [torch.cat(p) for p in places.values()])

    @staticmethod
    def of(data: Data) -> NeuralGraph:
        """Any batch of neural graphs, PyG's own ``Batch`` included, in our block-major order.

        Raises:
            SpecError: the data are not neural graphs.
        """
        if isinstance(data, Batch) and "specs" in data._store:
            return NeuralGraph.collate(data.to_data_list())  # type: ignore[arg-type]
        if not isinstance(data, NeuralGraph):
            raise SpecError(f"expected a NeuralGraph or a batch of them; got {type(data).__name__}: use convert()")
        return data

    # ---- views --------------------------------------------------------------------------------

    @property
    def specs(self) -> list[NetSpec]:
        """The spec of every network."""
        return self._store["specs"]

    @property
    def spec(self) -> NetSpec:
        """The one spec of all networks here.

        Raises:
            SpecError: the batch mixes architectures.
        """
        first = self.specs[0]
        if any(s != first for s in self.specs):
            raise SpecError("this batch mixes architectures: use .specs")
        return first

    @property
    def num_graphs(self) -> int:
        return len(self.specs)

    @property
    def num_nodes(self) -> int:  # type: ignore[override]
        return sum(s.num_nodes for s in self.specs)

    @property
    def num_edges(self) -> int:
        stored = self._store.get("edge_index")
        return sum(s.num_edges for s in self.specs) if stored is None else stored.shape[1]

    def members(self) -> list[Tensor]:
        """Per distinct spec, in order of first appearance, the places of its networks in the batch."""
        return list(places_by_spec(self.specs).values())

    def stacks(self) -> list[Any]:
        """Per distinct spec, the weights of its networks (views of the flat fields where those exist)."""
        if "stacks" in self._store:
            return self._store["stacks"]
        ends = node_starts(self.specs).tolist()
        out, edge = [], 0
        for places in self.members():
            spec, size = self.specs[int(places[0])], len(places)
            fields = spec.num_fields
            if size == self.num_graphs:
                nodes = self._store["x"].view(size, spec.num_nodes, -1)[..., :fields]
            else:
                nodes = torch.stack([self._store["x"][ends[p] : ends[p + 1], :fields] for p in places.tolist()])
            blocks = []
            for b in spec.blocks:
                count = size * b.num_edges
                flat = self._store["edge_attr"][edge : edge + count].view(size, *b.sizes, -1)
                slots = topology.tap_slots(b, common_grid(self.specs))
                full = len(slots) == flat.shape[-1]
                blocks.append(flat if full else flat[..., slots.to(flat.device)])
                edge += count
            out.append(Stack(spec, nodes, tuple(blocks)))
        return out

    def to_data_list(self) -> list[NeuralGraph]:
        """The networks one by one, in the order of the batch."""
        out: list[Any] = [None] * self.num_graphs
        for stack, places in zip(self.stacks(), self.members(), strict=True):
            for row, place in enumerate(places.tolist()):
                out[place] = NeuralGraph.from_stacks([stack.take(slice(row, row + 1))])
        return out

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters of a single network by name.

        Raises:
            SpecError: there are several networks.
        """
        if self.num_graphs != 1:
            raise SpecError(f"state_dict needs one network, this batch has {self.num_graphs}: use to_data_list()")
        return {name: value[0] for name, value in self.stacks()[0].unpack().items()}

    def map_stacks(self, function: Callable[[Any], AnyStack]) -> NeuralGraph:
        """A new graph whose stacks are mapped one by one."""
        return NeuralGraph.from_stacks([function(s) for s in self.stacks()], self.members())

    def astype(self, dtype: torch.dtype) -> NeuralGraph:
        """The graph with weights of another floating-point type."""
        return self.map_stacks(lambda s: s.apply(lambda t: t.to(dtype)))

    # ---- checks and exports -------------------------------------------------------------------

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check shapes, finiteness and index range of every field.

        Raises:
            SpecError: the first thing found wrong (unless ``raise_on_error`` is False).
        """
        if "specs" not in self._store:
            problem = "this NeuralGraph is empty: make one with NeuralGraph.build or converters.convert"
        else:
            problem = first_problem(self.specs, {name: self[name] for name in (*WEIGHTS, "edge_index", "gauge")})
        if problem and raise_on_error:
            raise SpecError(problem)
        return problem is None

    def to_networkx(self) -> nx.DiGraph:
        """A networkx graph: neurons with group, activation and parameters, edges with their taps.

        Raises:
            SpecError: there are several networks.
        """
        if self.num_graphs != 1:
            raise SpecError(f"to_networkx needs one network, this batch has {self.num_graphs}: use to_data_list()")
        return to_networkx(self.spec, self.x.detach(), self.edge_index, self.edge_attr.detach(), self.edge_mask)

    # ---- PyG internals ------------------------------------------------------------------------

    @property
    def stores(self) -> list[Any]:
        """PyG's storages, with every field made: collation and transforms see an ordinary graph."""
        if "specs" in self._store and not isinstance(self, Batch):
            self._flatten()
            for name in DERIVED if self.num_graphs > 1 else DERIVED.keys() - set(BATCHING):
                self._store[name] = self._derived(name)
        return [self._store]

    @property
    def node_stores(self) -> list[Any]:
        return self.stores

    @property
    def edge_stores(self) -> list[Any]:
        return self.stores

    def keys(self) -> list[str]:  # type: ignore[override]
        return list(self.stores[0].keys())

    def __getitem__(self, key: str) -> Any:
        return self.stores[0][key]

    def apply(self, func: Callable[[Any], Any], *args: str) -> NeuralGraph:
        self._store.apply(lambda v: v.apply(func) if isinstance(v, (Stack, TracedStack)) else func(v), *args)
        return self

    def clone(self, *args: str) -> NeuralGraph:
        return copy.copy(self).apply(lambda t: t.clone() if isinstance(t, Tensor) else t, *args)

    def __repr__(self) -> str:
        if "specs" not in self._store:
            return "NeuralGraph()"
        return f"NeuralGraph(networks={self.num_graphs}, neurons={self.num_nodes}, edges={self.num_edges})"

    @property
    def _device(self) -> torch.device:
        stacks = self._store.get("stacks")
        return (stacks[0].nodes if stacks else self._store["x"]).device

    def _flatten(self) -> None:
        """Replace the stacks by the flat fields that PyG models read."""
        if "stacks" not in self._store or "x" in self._store:
            return
        stacks, members = self._store["stacks"], self.members()
        grid, ptr = common_grid(self.specs), node_starts(self.specs)
        slots = grid_slots(grid)
        fields = max(s.spec.num_fields for s in stacks)
        pieces: list[Any] = [None] * self.num_graphs
        weights = []
        for stack, places in zip(stacks, members, strict=True):
            neutral = (*NEUTRAL_NODE, *(0.0,) * fields)[stack.spec.num_fields : fields]
            pad = torch.tensor(neutral).to(stack.nodes)
            nodes = torch.cat([stack.nodes, pad.expand(*stack.nodes.shape[:2], -1)], -1)
            for row, place in enumerate(places.tolist()):
                pieces[place] = nodes[row]
            for b, block in zip(stack.spec.blocks, stack.blocks, strict=True):
                flat = block.reshape(-1, b.num_taps)
                if b.num_taps != slots:
                    wide = flat.new_zeros(len(flat), slots)
                    flat = wide.index_copy(1, topology.tap_slots(b, grid).to(flat.device), flat)
                weights.append(flat)
        if len(stacks) == 1:
            x = stacks[0].nodes.reshape(int(ptr[-1]), fields)
        else:
            x = torch.cat(pieces)
        if not any(isinstance(s, TracedStack) for s in stacks):  # tensors of traced networks do not all lie in them
            del self._store["stacks"]
        self._store["x"], self._store["edge_attr"] = x, torch.cat(weights)

    def _derived(self, name: str) -> Any:
        if name in self._store or "specs" not in self._store:
            return self._store.get(name)
        value = DERIVED[name](self.specs).to(self._device)
        self._store[name] = value
        return value
