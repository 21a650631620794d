"""DWS layers: for every pair of parameter tensors, a map that commutes with permutations of hidden neurons.

Navon, Shamsian, Achituve, Fetaya, Chechik, Maron, "Equivariant Architectures for Learning in Deep Weight Spaces"
(2023), arXiv 2301.12780: the characterisation of all affine equivariant layers, block by block.

All blocks follow from one rule. A tensor has axes of hidden neurons, which permutations move, and axes of inputs or
outputs, which stay and are counted as features. A block from S to T pools S over the hidden axes that T does not have,
maps the features, and repeats the result along the hidden axes that S does not have:

- no common axis: a linear map;
- one common axis: a map of sets along it (DeepSets or attention);
- two, so S = T: the mean of four linear maps of x, of x pooled along either axis, and of x pooled along both.

Features here are lists of tensors ``[B, *hidden neurons, fixed * C]``, see :class:`Tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional as F

from baselines.errors import BaselineError
from baselines.weight_space import ChainForm, WeightSpace

Pool = Callable[[Tensor, int], Tensor]

POOLS: MappingProxyType[str, Pool] = MappingProxyType(
    {"max": lambda x, dim: x.amax(dim), "mean": lambda x, dim: x.mean(dim), "sum": lambda x, dim: x.sum(dim)}
)


@dataclass(frozen=True)
class Slot:
    """A parameter tensor.

    Args:
        name: ``w0`` or ``b0`` and so on.
        neurons: groups of neurons along its axes, targets first.
        hidden: those that permutations move.
        fixed: entries per hidden neurons: the number of inputs or outputs where it has such an axis.
    """

    name: str
    neurons: tuple[int, ...]
    hidden: tuple[int, ...]
    fixed: int


class Tensors:
    """How the weights and biases of a chain become features with hidden axes first.

    Args:
        form: dense layers, two or more; hidden widths do not matter.

    Raises:
        BaselineError: there are convolutions, or no hidden neurons.

    Example:
        >>> [(s.name, s.hidden, s.fixed) for s in Tensors(ChainForm((2, 32, 32, 1), ((), (), ()))).slots]
        [('w0', (1,), 2), ('w1', (2, 1), 1), ('w2', (2,), 1), ('b0', (1,), 1), ('b1', (2,), 1), ('b2', (), 1)]
    """

    def __init__(self, form: ChainForm) -> None:
        if form.depth < 2 or any(form.taps):
            raise BaselineError(
                f"DWSNets read two or more dense layers; got {form}: use nfn or gmn for convolutions or single layers"
            )
        self.depth = form.depth
        ends = {0: form.widths[0], form.depth: form.widths[-1]}

        def slot(name: str, neurons: tuple[int, ...]) -> Slot:
            hidden = tuple(n for n in neurons if n not in ends)
            return Slot(name, neurons, hidden, max(ends.get(n, 1) for n in neurons))

        weights = [slot(f"w{i}", (i + 1, i)) for i in range(form.depth)]
        self.slots = (*weights, *(slot(f"b{i}", (i + 1,)) for i in range(form.depth)))

    def read(self, space: WeightSpace) -> list[Tensor]:
        """Features with channels last as a list over the slots."""
        out = [w.transpose(1, 2) if i == self.depth - 1 else w for i, w in enumerate(space.weights)]
        out += space.biases
        return [t.flatten(1 + len(s.hidden)) for s, t in zip(self.slots, out, strict=True)]

    def write(self, features: Sequence[Tensor]) -> WeightSpace:
        """The inverse of :meth:`read`, for one channel or several."""
        out = []
        for s, t in zip(self.slots, features, strict=True):
            at = t.ndim - 1
            out.append(t.unflatten(at, (s.fixed, -1)) if len(s.hidden) < len(s.neurons) else t)
        out[self.depth - 1] = out[self.depth - 1].transpose(1, 2)
        return WeightSpace(tuple(out[: self.depth]), tuple(out[self.depth :]))


class Pooled:
    """One tensor, pooled along every set of its hidden axes at most once.

    Args:
        hidden: groups along its axes.
        features: ``[B, *hidden neurons, F]``.
        pool: maximum, mean or sum.
    """

    def __init__(self, hidden: tuple[int, ...], features: Tensor, pool: Pool) -> None:
        self.hidden, self.pool = hidden, pool
        self.known = {hidden: features}

    def onto(self, kept: tuple[int, ...]) -> Tensor:
        """``[B, *kept neurons, F]``."""
        if kept not in self.known:
            more = self.hidden if len(self.hidden) == len(kept) + 1 else self.hidden[:1]
            gone = next(i for i, group in enumerate(more) if group not in kept)
            self.known[kept] = self.pool(self.onto(more), 1 + gone)
        return self.known[kept]


class DeepSet(nn.Module):
    """``x_i -> A x_i + a - B pool(x)`` for a set along axis 1 (Zaheer et al. 2017, arXiv 1703.06114).

    Args:
        in_features: per element.
        out_features: per element.
        pool: maximum, mean or sum.
    """

    def __init__(self, in_features: int, out_features: int, pool: Pool) -> None:
        super().__init__()
        self.own = nn.Linear(in_features, out_features)
        self.all = nn.Linear(in_features, out_features, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x) - self.all(self.pool(x, 1))[:, None]


class SetAttention(nn.Module):
    """A self-attention block on a set along axis 1, without normalisation (Lee et al. 2019, arXiv 1810.00825).

    ``H = Q + softmax(Q K^T / sqrt(width)) V`` per head, with the full width under the root, then
    ``H + relu(O H + o)``.

    Args:
        in_features: per element.
        out_features: per element, a multiple of the heads.
        heads: of attention.

    Raises:
        BaselineError: the features cannot be shared between the heads.
    """

    def __init__(self, in_features: int, out_features: int, heads: int) -> None:
        super().__init__()
        if out_features % heads:
            raise BaselineError(f"{out_features} features cannot be split into {heads} heads: change width or heads")
        self.heads = heads
        self.query = nn.Linear(in_features, out_features)
        self.key = nn.Linear(in_features, out_features)
        self.value = nn.Linear(in_features, out_features)
        self.out = nn.Linear(out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (query, self.key(x), self.value(x)))
        found = F.scaled_dot_product_attention(q, k, v, scale=query.shape[-1] ** -0.5)
        mixed = query + found.transpose(1, 2).flatten(2)
        return mixed + F.relu(self.out(mixed))


class MatrixMap(nn.Module):
    """The mean of four linear maps of a matrix of features: own entry, both poolings along one axis, the whole.

    Args:
        in_features: per entry.
        out_features: per entry.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.own, self.over_sources, self.over_targets, self.all = (
            nn.Linear(in_features, out_features) for _ in range(4)
        )

    def forward(self, x: Pooled) -> Tensor:
        targets, sources = x.hidden
        along = self.over_sources(x.onto((targets,)))[:, :, None] + self.over_targets(x.onto((sources,)))[:, None]
        return (self.own(x.onto(x.hidden)) + (along + self.all(x.onto(()))[:, None, None])) / 4


SetMap = Callable[[int, int], nn.Module]


class DWSLayer(nn.Module):
    """All blocks between the tensors of a network, added up and divided by the number of tensors.

    It commutes with permutations of hidden neurons.

    Args:
        slots: the tensors.
        channels: before and behind.
        pool: a key of :data:`POOLS`.
        set_map: makes a map of sets from its numbers of features.
        scale: factor on the initial weights.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        channels: Sequence[int],
        *,
        pool: str,
        set_map: SetMap,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise BaselineError(f"unknown pool {pool!r}; known: {', '.join(POOLS)}")
        self.slots, self.channels, self.pool = tuple(slots), tuple(channels), POOLS[pool]
        self.pairs = [(s, t) for s in slots for t in slots]
        self.blocks = nn.ModuleDict({f"{s.name}_{t.name}": self.block(s, t, set_map) for s, t in self.pairs})
        self._start(scale)

    def block(self, source: Slot, target: Slot, set_map: SetMap) -> nn.Module:
        """The map from one tensor to another."""
        sizes = source.fixed * self.channels[0], target.fixed * self.channels[1]
        shared = _shared(source, target)
        if not shared:
            return nn.Linear(*sizes)
        return set_map(*sizes) if len(shared) == 1 else MatrixMap(*sizes)

    def message(self, source: Slot, target: Slot, x: Pooled) -> Tensor:
        """What a target hears from a source, ``[B, *hidden neurons or 1, F]``."""
        shared = _shared(source, target)
        block = self.blocks[f"{source.name}_{target.name}"]
        heard = block(x) if len(shared) == 2 else block(x.onto(shared))
        for axis, group in enumerate(target.hidden):
            heard = heard if group in shared else heard.unsqueeze(1 + axis)
        return heard

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        pooled = {s.name: Pooled(s.hidden, x, self.pool) for s, x in zip(self.slots, features, strict=True)}
        heard: dict[str, list[Tensor]] = {t.name: [] for t in self.slots}
        for s, t in self.pairs:
            heard[t.name].append(self.message(s, t, pooled[s.name]))
        out = []
        for t, x in zip(self.slots, features, strict=True):
            parts = sorted(heard[t.name], key=Tensor.numel)  # small ones first: fewer additions
            total = reduce(Tensor.add, parts) / len(self.slots)
            out.append(total.expand(*x.shape[:-1], total.shape[-1]))
        return out

    def _start(self, scale: float) -> None:
        """Xavier's deviations times sqrt(2 in / out), as in the official code."""
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight, gain=scale * (2 * m.in_features / m.out_features) ** 0.5)
                if m.bias is not None:
                    nn.init.uniform_(m.bias, -1e-4, 1e-4)


class DWSLayerAsPublished(DWSLayer):
    """The published code's layer: the last weights hear the weights before them alike for every output.

    Its block from the last but one to the last weight tensor takes the last one for an interior one. It stays
    equivariant but cannot tell outputs apart there. The published code needs three layers; with two this is
    :class:`DWSLayer`.
    """

    def block(self, source: Slot, target: Slot, set_map: SetMap) -> nn.Module:
        if self._is_alike(source, target):
            return set_map(self.channels[0], self.channels[1])
        return super().block(source, target, set_map)

    def message(self, source: Slot, target: Slot, x: Pooled) -> Tensor:
        heard = super().message(source, target, x)
        return heard.repeat(1, 1, target.fixed) if self._is_alike(source, target) else heard

    def _is_alike(self, source: Slot, target: Slot) -> bool:
        last = len(self.slots) // 2 - 1
        return last > 1 and (source.name, target.name) == (f"w{last - 1}", f"w{last}")


def _shared(source: Slot, target: Slot) -> tuple[int, ...]:
    return tuple(group for group in source.hidden if group in target.hidden)
