"""Which symmetries a model really has: its error under permutations, scales and signs, each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from experiments.models import take_statistics
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.symmetry import GroupAction, GroupElement, act, random_element
from graphnfn.testing import random_graph
from graphnfn.testing.compare import evaluate, worst

Kind = Literal["permutation", "scale", "sign"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Maker = Callable[[NetSpec], nn.Module]
"""Makes a model that reads one architecture."""

_IMAGE = (1, 20, 20)
_RELU = (mlp_spec([3, 6, 6, 6, 2], "relu"), small_cnn_spec([1, 4, 5, 5], 2, "relu", stride=2, input_shape=_IMAGE))
_ODD = (
    mlp_spec([3, 6, 6, 6, 2], "tanh"), mlp_spec([3, 6, 6, 6, 2], "sin", omega=30.0),
    small_cnn_spec([1, 4, 5, 5], 2, "tanh", stride=2, input_shape=_IMAGE),
)  # fmt: skip
SPECS: dict[Kind, tuple[NetSpec, ...]] = {"permutation": _RELU + _ODD, "scale": _RELU, "sign": _ODD}
"""Small networks whose neurons have the symmetry."""

DECADES = 6.0


def settled(make: Maker, spec: NetSpec, seed: int = 0) -> nn.Module:
    """A model with generic random weights and statistics of random networks, in float64, evaluation mode.

    Every parameter gets noise, so that what starts at zero or one matters too, and a sigmoid in the end is left out: it
    could hide changes.

    Args:
        make: makes the model.
        spec: what it reads.
        seed: of its weights.

    Raises:
        BaselineError: the model cannot read ``spec``.
    """
    torch.manual_seed(seed)
    model = make(spec).double()
    known = random_graph(spec, seed=seed + 1000, networks=8)
    with torch.no_grad():
        model.train()(known)
        take_statistics(model, lambda: known)
        for module in model.modules():
            if isinstance(module, nn.Sequential) and len(module) and isinstance(module[-1], nn.Sigmoid):
                module[-1] = nn.Identity()
        for parameter in model.parameters():
            spread = float(parameter.std(correction=0)) if parameter.ndim > 1 else 0.0
            parameter.add_(0.1 * (spread or parameter.numel() ** -0.5) * torch.randn_like(parameter))
    return model.eval()


def draw(spec: NetSpec, kind: Kind, seed: int, networks: int = 3) -> GroupElement:
    """Random group elements of one kind only, one per network; scales over six decades.

    Example:
        >>> actions = draw(mlp_spec([2, 5, 1], "relu"), "scale", seed=0).actions
        >>> actions["layers.0"].perm[0].tolist(), bool((actions["layers.0"].scale != 1).all())
        ([0, 1, 2, 3, 4], True)
    """
    whole = random_element(spec, DECADES, seed, networks=networks)
    return GroupElement(spec, {name: _only(action, kind) for name, action in whole.actions.items()})


def _only(action: GroupAction, kind: Kind) -> GroupAction:
    one = torch.ones_like(action.scale)
    return GroupAction(
        action.perm if kind == "permutation" else torch.arange(action.perm.shape[-1]).expand_as(action.perm),
        action.scale if kind == "scale" else one,
        action.sign if kind == "sign" else one,
        torch.zeros_like(action.half_turns),
    )


def symmetry_error(make: Maker, kind: Kind, *, networks: int = 3, draws: int = 2) -> float | None:
    """The largest relative error under random elements of one kind, over all :data:`SPECS` that the model reads.

    ``|f(g G) - f(G)| / |f(G)|`` for predictions, ``|g^-1 f(g G) - f(G)| / |f(G)|`` for edited networks; in float64.

    Args:
        make: makes the model, invariant or editing.
        kind: of the group elements.
        networks: random networks per architecture.
        draws: group elements per network.

    Returns:
        None where the model reads none of them.
    """
    errors = []
    for number, spec in enumerate(SPECS[kind]):
        try:
            model = settled(make, spec)
        except BaselineError:
            continue
        graph = random_graph(spec, seed=number, networks=networks)
        still = evaluate(model, graph)
        for seed in range(draws):
            element = draw(spec, kind, seed, networks)
            moved = evaluate(model, act(element, graph))
            if isinstance(still, Tensor) or isinstance(moved, Tensor):
                errors.append(worst(moved, still).error)
            else:
                errors.append(worst(act(element.inverse(), NeuralGraph.of(moved)), still).error)
    return max(errors, default=None)
