"""GraphMetaNet: canonicalise, encode, sweep, read out, composed by a frozen config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Data

from graphnfn.config import Layer, MetaNetConfig
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.descent import DescentHead
from graphnfn.nn.edges import EdgeWiring
from graphnfn.nn.edit import EditHead, edited
from graphnfn.nn.field_reader import MOST, FieldReader, with_field
from graphnfn.nn.functionals import FieldFunctionals
from graphnfn.nn.gated import GatedSweep
from graphnfn.nn.lattice import LatticeProbes
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.paths import PathSweep
from graphnfn.nn.probes import SpatialProbes
from graphnfn.nn.readout import InvariantReadout
from graphnfn.nn.shares import FieldShares
from graphnfn.nn.state import LevelCode, State
from graphnfn.nn.statistics import WeightStatistics
from graphnfn.nn.synchronous import SynchronousLayer
from graphnfn.nn.taps import Sizes, coordinates
from graphnfn.nn.traced import TracedReader
from graphnfn.nn.units import BlockUnits
from graphnfn.nn.wiring import Wiring
from graphnfn.prepared import Prepared
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry.balanced import balanced_scales, relative_widths
from graphnfn.symmetry.canonical import CanonicalScales, canonical_scales
from graphnfn.traced_stack import TracedStack

LAYERS: dict[Layer, tuple[type[nn.Module], ...]] = {
    "native": (NativeSweep,),
    "gated": (GatedSweep,),
    "paths": (PathSweep,),
    "synchronous": (SynchronousLayer,),
    "combined": (NativeSweep, GatedSweep),
    "probes": (SpatialProbes, LatticeProbes),
    "complete": (SpatialProbes, LatticeProbes, NativeSweep, GatedSweep),
}
"""What one round consists of."""

WEIGHT_READING = (GatedSweep, PathSweep, SynchronousLayer)
"""Layers that read weights instead of running networks."""

EDITORS = (EditHead, DescentHead)
"""Heads that change weights."""

MANY = 8
"""Architectures of few edges from which they are read at once, see :meth:`GraphMetaNet.forward`."""

FEW_EDGES = 1500
"""Edges of all networks of an architecture in a batch up to which these are few. From 1,500 to 4,000 on, by layer and
kernels, batches of matrices are faster on a CPU than sums over edges, see ``graphnfn bench mixed``."""

TOGETHER = 256
"""Networks that are run at once where many are prepared: every neuron has a number per point of a lattice."""


class GraphMetaNet(nn.Module):
    """A metanetwork on neuron graphs that is exact under the symmetries of their weights.

    For every group element g of a network's spec ``model(act(g, graph)) == model(graph)`` (head "invariant") or
    ``== act(g, model(graph))`` (heads "edit" and "descent"): permutations, positive scales, signs and half turns.

    Args:
        config: its size and parts.
        specs: architectures it shall read; without them it is sized by the first batch that it meets.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 8, 1], "tanh")
        >>> graph = NeuralGraph.build(spec, {k: torch.randn(s) for k, s in spec.params.items()})
        >>> GraphMetaNet(MetaNetConfig(width=8, out=3))(NeuralGraph.batch([graph, graph])).shape
        torch.Size([2, 3])
    """

    def __init__(self, config: MetaNetConfig | None = None, specs: Iterable[NetSpec] | None = None) -> None:
        super().__init__()
        self.config = config or MetaNetConfig()
        self.sizes: Sizes | None = None
        self.statistics: WeightStatistics | None = None
        self.functionals: FieldFunctionals | None = None
        self.shares: FieldShares | None = None
        if specs is not None:
            self.initialize(Sizes.of(specs))

    def initialize(self, sizes: Sizes) -> None:
        """Make the parameters, for tables of the given sizes."""
        c = self.config
        self.sizes = sizes
        self.code = LevelCode(c.width)
        if c.units:
            self.units = BlockUnits()
        settings: dict[type[nn.Module], dict[str, Any]] = {LatticeProbes: {"jitter": c.jitter, "dropout": c.dropout}}
        kinds = [kind for _ in range(c.rounds) for kind in LAYERS[c.layer]]
        self.layers = nn.ModuleList(kind(c.width, sizes, **settings.get(kind, {})) for kind in kinds)
        if sizes.traced:
            options = {"rounds": max(c.rounds, 1), "layer": c.layer, "checkpoint": c.checkpoint}
            self.reader = TracedReader(c.width, 4 * c.width, edit=c.head != "invariant", **options)  # type: ignore
        if c.head == "invariant":
            self.head = InvariantReadout(c.width, c.out, sizes)
            if c.statistics and (sizes.others or sizes.spread):
                self.statistics = WeightStatistics(self.head.hidden, sizes, c.reference_width)
            if c.functionals and sizes.coordinates:
                self.functionals = FieldFunctionals(c.out, sizes)
                self.shares = FieldShares(c.out, sizes)
        else:
            edit = c.head == "edit"
            self.head = EditHead(c.width, c.rank, sizes) if edit else DescentHead(c.width, c.points, sizes)

    def forward(self, data: Data) -> Tensor | NeuralGraph:
        """Predictions ``[networks, out]``, or the edited networks.

        Networks of one architecture are read as batches of matrices. Where a batch has :data:`MANY` architectures or
        more of at most :data:`FEW_EDGES` edges, these are read at once as in :meth:`forward_on_edges`.
        """
        return self._run(data, together=False)

    def forward_on_edges(self, data: Data) -> Tensor | NeuralGraph:
        """The same numbers by ``edge_index`` gathers and scatters, all architectures of the batch at once.

        Traced networks are read tensor by tensor here, too.
        """
        return self._run(data, together=True)

    def _run(self, data: Data, *, together: bool) -> Tensor | NeuralGraph:
        graph = NeuralGraph.of(data)
        stacks = graph.stacks()
        if self.sizes is None:
            self.initialize(Sizes.of(stack.spec for stack in stacks))
            first = next(iter(stacks[0].unpack().values()))
            wide = first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32
            self.to(first.device, wide)
        chains = [stack for stack in stacks if not isinstance(stack, TracedStack)]
        found = iter(self._chains(chains, together) if chains else [])
        results = [self._traced(s) if isinstance(s, TracedStack) else next(found) for s in stacks]
        if isinstance(self.head, EDITORS):
            return NeuralGraph.from_stacks(results, graph.members())
        order = torch.cat(graph.members()).argsort().to(results[0].device)
        return torch.cat(results)[order]

    def _traced(self, stack: TracedStack) -> Any:
        """The prediction for a stack of traced networks, or the edited stack."""
        assert self.sizes is not None
        if not self.sizes.traced:
            raise SpecError(
                "this model was sized for MLPs and CNNs, the batch has a traced network: give "
                "GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        return self.reader.edit(stack) if isinstance(self.head, EDITORS) else self.head.predict(self.reader(stack))

    def _chains(self, stacks: list[Stack], together: bool) -> list[Any]:
        """The same for stacks of MLPs and CNNs."""
        dtype = next(self.parameters()).dtype
        found = [self._seen(stack) for stack in stacks]  # scales in the precision of the weights
        canonical = [stack.apply(lambda t: t.to(dtype)) for _, stack in found]
        routes = [list(range(len(stacks)))] if together else self._routes(canonical)
        wirings = self._routed(canonical, routes, together)
        in_units = self._routed([self.units(s) for s in canonical], routes, together) if self.config.units else wirings
        for wiring in (*wirings, *in_units):
            wiring.reference = self.config.reference_width
        results: dict[int, Any] = {}
        for places, wiring, other in zip(routes, wirings, in_units, strict=True):
            answer = self._answer(wiring, other)
            edits = isinstance(self.head, EDITORS)
            parts = wiring.unbundle(*answer) if edits else answer.split([stacks[i].size for i in places])
            for i, part in zip(places, parts, strict=True):
                results[i] = edited(stacks[i], found[i][0], part) if edits else part
        return [results[i] for i in range(len(stacks))]

    def _routed(self, stacks: list[Stack], routes: list[list[int]], together: bool) -> list[Wiring]:
        """One wiring per route."""
        chosen = [[stacks[i] for i in places] for places in routes]
        return [w for few in chosen for w in self._wirings(few, together or len(few) > 1)]

    def _seen(self, stack: Stack) -> tuple[CanonicalScales, Stack]:
        if not isinstance(stack, Prepared):
            return self._canonical(stack)
        if isinstance(self.head, EDITORS):
            raise SpecError("these networks were prepared for a model with head 'invariant': edit them as they were")
        return CanonicalScales((), ()), stack

    # What the layers see of the weights, and how messages travel; ablations and benchmarks replace these.

    def _canonical(self, stack: Stack) -> tuple[CanonicalScales, Stack]:
        if not self.config.balanced or coordinates(stack.spec):
            return canonical_scales(stack)
        return balanced_scales(stack, relative_widths(stack.spec, self.config.reference_width))

    def _routes(self, stacks: Sequence[Stack]) -> list[list[int]]:
        """Which stacks are read at once: those of few edges where they are many, each other one for itself."""
        edges = [sum(block[..., 0].numel() for block in stack.blocks) for stack in stacks]
        few = [i for i, count in enumerate(edges) if count <= FEW_EDGES]
        if len(few) < MANY:
            return [[i] for i in range(len(stacks))]
        return [few, *([i] for i, count in enumerate(edges) if count > FEW_EDGES)]

    def _wirings(self, stacks: list[Stack], together: bool) -> list[Wiring]:
        return [EdgeWiring(stacks)] if together else [BlockWiring(stack) for stack in stacks]

    def _answer(self, wiring: Wiring, in_units: Wiring) -> Any:
        state = self._features(wiring, in_units)
        found = (
            self.head(state, wiring, self.statistics(wiring.stacks)) if self.statistics else self.head(state, wiring)
        )
        if self._field_readers:
            stacks = self._with_fields(wiring.stacks)
            found = found + sum(reader(stacks) for reader in self._field_readers)
        return found

    def _features(self, wiring: Wiring, in_units: Wiring | None = None) -> State:
        state = State(self.code(wiring))
        for layer in self.layers:
            again = self.config.checkpoint and torch.is_grad_enabled()
            seen = in_units if in_units is not None and isinstance(layer, WEIGHT_READING) else wiring
            state = checkpoint(layer, state, seen, use_reentrant=False) if again else layer(state, seen)
        return state

    def prepare(self, graph: NeuralGraph) -> NeuralGraph:
        """What the model makes of weights before it reads them, to be made once for networks that it reads often.

        ``model(model.prepare(graph)) == model(graph)``, for every model of the same configuration and architectures;
        a step on prepared networks takes less time. Traced networks stay as they are.

        Raises:
            SpecError: the head edits networks.

        Example:
            >>> from graphnfn.chain import mlp_spec
            >>> from graphnfn.testing import random_graph
            >>> graph = random_graph(mlp_spec([2, 8, 1], "relu"), networks=3, dtype=torch.float32)
            >>> model = GraphMetaNet(specs=[graph.spec])
            >>> bool(torch.equal(model(model.prepare(graph)), model(graph)))
            True
        """
        if self.config.head != "invariant":
            raise SpecError(f"got head={self.config.head!r}; only models with head 'invariant' prepare networks")
        like = next(self.parameters(), None)
        return graph.map_stacks(lambda s: s if isinstance(s, TracedStack) else self._prepared(s, like))

    def _prepared(self, stack: Stack, like: Tensor | None) -> Prepared:
        canonical = self._seen(stack)[1]
        canonical = canonical if like is None else canonical.apply(lambda t: t.to(like.dtype))
        statistics = picture = field = values = None
        if self.statistics and self.statistics.reads(stack.spec):
            statistics = self.statistics.seen(canonical)
        if coordinates(stack.spec):
            few = [canonical.take(slice(k, k + TOGETHER)) for k in range(0, max(1, stack.size), TOGETHER)]
            first = next(iter(self._lattices), None)  # all have the same pictures
            picture = None if first is None else torch.cat([first.picture(s) for s in few])
            if self.functionals and self.shares:
                found = self._with_fields(few)
                field = torch.cat([self.functionals.seen(s) for s in found])
                values = torch.cat([self.shares.seen(s) for s in found])
        return Prepared(canonical.spec, canonical.nodes, canonical.blocks, statistics, picture, field, values)

    @property
    def fits(self) -> bool:
        """Whether :meth:`fit` takes anything."""
        return self.config.units or self.statistics is not None or self.functionals is not None or bool(self._lattices)

    @property
    def _field_readers(self) -> list[FieldReader]:
        return [reader for reader in (self.functionals, self.shares) if reader is not None]

    def _with_fields(self, stacks: Sequence[Stack]) -> list[Stack]:
        """Stacks whose networks of coordinates were run, once for all that read their fields."""
        assert self.sizes is not None
        return [with_field(stack, self.sizes.outputs) for stack in stacks]

    @property
    def _lattices(self) -> list[LatticeProbes]:
        """The layers that read pictures of coordinate networks, of a model that was sized for such."""
        return [layer for layer in self.modules() if isinstance(layer, LatticeProbes) and layer.readers]

    def fit(self, batches: Iterable[NeuralGraph]) -> None:
        """Take from training networks what is taken once: units of blocks, and mean and deviation of weight statistics,
        fields, how their values are distributed, and pictures.

        Raises:
            SpecError: the model was made without ``specs`` and has not met a batch.
        """
        if self.sizes is None:
            raise SpecError("the model has no parameters yet: give GraphMetaNet(config, specs=[...]) before fit")
        stacks = [s for graph in batches for s in graph.stacks() if not isinstance(s, TracedStack)]
        canonical = [self._seen(stack)[1] for stack in stacks]
        if self.config.units:
            self.units.fit(canonical)
        if self.statistics:
            self.statistics.fit(canonical)
        if self._field_readers:
            stacks = self._with_fields([stack.take(slice(MOST)) for stack in canonical])
            for reader in self._field_readers:
                reader.fit(stacks)
        for layer in self._lattices:
            layer.fit(canonical)

    def get_extra_state(self) -> Any:
        s = self.sizes
        return None if s is None else dataclasses.astuple(s)

    def set_extra_state(self, state: Any) -> None:
        if state is not None and self.sizes is None:
            self.initialize(Sizes(*state))
