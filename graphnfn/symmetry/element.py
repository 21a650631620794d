"""Elements of the symmetry group of a spec: composition, inverse, random sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.errors import SymmetryError
from graphnfn.spec import NetSpec, NeuronGroup
from graphnfn.symmetry.law_element import LawElement, random_law_element
from graphnfn.traced import TracedSpec


@dataclass(frozen=True)
class GroupAction:
    """What happens to one neuron group; every tensor is ``[n]`` or, one row per network, ``[B, n]``.

    New neuron i is old neuron ``perm[i]``, with pre-activation ``z'_i = scale_i * sign_i * z_perm[i] +
    half_turns_i * pi / omega``.
    """

    perm: Tensor
    scale: Tensor
    sign: Tensor
    half_turns: Tensor

    @staticmethod
    def identity(size: int) -> GroupAction:
        one = torch.ones(size, dtype=torch.float64)
        return GroupAction(torch.arange(size), one, one.clone(), torch.zeros(size, dtype=torch.long))

    def after(self, first: GroupAction) -> GroupAction:
        """The action of ``first`` followed by this one."""
        sign = _take(first.sign, self.perm)
        turns = self.sign.long() * _take(first.half_turns, self.perm) + self.half_turns
        scale = self.scale * _take(first.scale, self.perm)
        return GroupAction(_take(first.perm, self.perm), scale, self.sign * sign, turns)

    def inverse(self) -> GroupAction:
        back = self.perm.argsort(-1)
        scale, sign = _take(1 / self.scale, back), _take(self.sign, back)
        return GroupAction(back, scale, sign, -sign.long() * _take(self.half_turns, back))


def _take(values: Tensor, rows: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(values.shape, rows.shape)
    return values.expand(shape).gather(-1, rows.expand(shape))


@dataclass(frozen=True)
class GroupElement:
    """One element of the symmetry group of ``spec``, or one per network of a batch.

    Groups that are not listed stay as they are.  ``a @ b`` is b followed by a:
    ``act(a @ b, graph) == act(a, act(b, graph))``.

    Raises:
        SymmetryError: an action is outside the group that the spec claims.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> element = random_element(mlp_spec([2, 5, 1], "relu"), decades=2.0, seed=0)
        >>> (element.inverse() @ element).actions["layers.0"].perm
        tensor([0, 1, 2, 3, 4])
    """

    spec: NetSpec
    actions: dict[str, GroupAction]

    def __post_init__(self) -> None:
        for name, action in self.actions.items():
            _check(self.spec.groups[self.spec.position[name]], action)

    def __matmul__(self, first: GroupElement) -> GroupElement:
        if self.spec != first.spec:
            raise SymmetryError("these group elements belong to different specs: compose elements of one spec")
        names = {**first.actions, **self.actions}
        return GroupElement(self.spec, {n: self.get(n).after(first.get(n)) for n in names})

    def inverse(self) -> GroupElement:
        return GroupElement(self.spec, {n: a.inverse() for n, a in self.actions.items()})

    def get(self, group: str) -> GroupAction:
        """The action on one group (the identity where none is listed)."""
        if group in self.actions:
            return self.actions[group]
        return GroupAction.identity(self.spec.groups[self.spec.position[group]].size)


def _check(group: NeuronGroup, action: GroupAction) -> None:
    if action.perm.shape[-1] != group.size:
        raise SymmetryError(f"group {group.id!r} has {group.size} neurons; the action has {action.perm.shape[-1]}")
    straight = torch.arange(group.size)
    moved = action.perm != straight
    if not torch.equal(action.perm.sort(-1).values, straight.expand_as(action.perm)):
        raise SymmetryError(f"group {group.id!r}: perm is not a permutation of 0 .. {group.size - 1}")
    if moved.any() and not group.permutable:
        raise SymmetryError(f"group {group.id!r} ({group.role}) is fixed: its neurons cannot be permuted")
    kinds = group.per_neuron()
    classes = {kind: c for c, kind in enumerate(dict.fromkeys(kinds))}
    kind = torch.tensor([classes[k] for k in kinds])
    if (kind[action.perm] != kind).any():
        raise SymmetryError(f"group {group.id!r}: only neurons of equal activation may be permuted among each other")
    for flag, broken, what in (
        (Gauge.POSITIVE, action.scale != 1, "positive scales"),
        (Gauge.SIGN, action.sign != 1, "sign flips"),
    ):
        allowed = torch.tensor([bool(gauge & flag) for _, gauge in kinds])
        if (broken & ~allowed).any():
            acts = ", ".join(str(a) for a in group.activations)
            raise SymmetryError(f"group {group.id!r} ({acts}) has no {what} as a symmetry; got some")
    if (action.scale <= 0).any() or not torch.isfinite(action.scale).all() or (action.sign.abs() != 1).any():
        raise SymmetryError(f"group {group.id!r}: scales must be positive and finite, signs +1 or -1")
    if action.half_turns.any() and not group.half_turns:
        raise SymmetryError(f"group {group.id!r} has no half turns as a symmetry: it needs sin or cos and a bias")


@overload
def random_element(
    spec: TracedSpec, decades: float = ..., seed: int | torch.Generator | None = ..., *, permute: bool = ...
) -> LawElement: ...
@overload
def random_element(
    spec: NetSpec,
    decades: float = ...,
    seed: int | torch.Generator | None = ...,
    *,
    networks: int | None = ...,
    half_turns: int = ...,
    permute: bool = ...,
) -> GroupElement: ...
def random_element(
    spec: NetSpec,
    decades: float = 2.0,
    seed: int | torch.Generator | None = None,
    *,
    networks: int | None = None,
    half_turns: int = 0,
    permute: bool = True,
) -> GroupElement | LawElement:
    """Draw a group element: uniform permutations and signs, log-uniform scales.

    Args:
        spec: whose symmetry group.
        decades: scales are 10^u with u uniform on [-decades / 2, decades / 2].
        seed: an integer, a generator, or None for PyTorch's default generator.
        networks: None for one element, or a number of independent ones (a batch).
        half_turns: phases n pi / omega with n uniform on -half_turns .. half_turns, where they are symmetries.
        permute: False leaves the neurons in place.

    For a traced network the element is a LawElement; it has no half turns, and one element serves a whole batch.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> element = random_element(mlp_spec([2, 5, 1], "tanh"), seed=0)
        >>> sorted(set(element.actions["layers.0"].scale.tolist()))
        [1.0]
    """
    if isinstance(spec, TracedSpec):
        return random_law_element(spec.law, decades, seed, permute=permute)
    generator = seed if isinstance(seed, torch.Generator) else None
    if isinstance(seed, int):
        generator = torch.Generator().manual_seed(seed)
    actions = {}
    for group in spec.groups:
        if group.role != "hidden":
            continue
        shape = (group.size,) if networks is None else (networks, group.size)
        kinds = group.per_neuron()
        perm = _random_perm(kinds, shape, generator) if permute and group.permutable else torch.arange(group.size)
        scaled = torch.tensor([bool(g & Gauge.POSITIVE) for _, g in kinds])
        flipped = torch.tensor([bool(g & Gauge.SIGN) for _, g in kinds])
        exponent = (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5) * decades
        scale = torch.where(scaled, torch.exp(exponent * math.log(10.0)), 1.0)
        sign = torch.where(flipped, torch.randint(2, shape, generator=generator) * 2.0 - 1.0, 1.0).double()
        turns = torch.zeros(shape, dtype=torch.long)
        if group.half_turns and half_turns:
            turning = torch.tensor([a.rule.half_turns for a, _ in kinds])
            turns = torch.randint(-half_turns, half_turns + 1, shape, generator=generator) * turning
        actions[group.id] = GroupAction(perm.expand(shape), scale, sign, turns)
    return GroupElement(spec, actions)


def _random_perm(kinds: tuple, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform among the permutations that keep every neuron's activation."""
    perm = torch.arange(shape[-1]).expand(shape).clone()
    for kind in dict.fromkeys(kinds):
        places = torch.tensor([i for i, k in enumerate(kinds) if k == kind])
        keys = torch.rand((*shape[:-1], len(places)), generator=generator)
        perm[..., places] = places[keys.argsort(-1)]
    return perm
