"""Reading weights that were trained with a paper's own code: which networks it read, and strict loading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from baselines.errors import BaselineError
from graphnfn.activations import as_activation
from graphnfn.chain import ChainBuilder
from graphnfn.spec import NetSpec, SpatialOp

Meta = Mapping[str, Any]
"""Facts of an official module: ``class_path``, ``constructor`` and ``specs``, or in place of ``specs`` the
``input_architecture`` with its ``weight_shapes`` and ``activation``."""

_ACTIVATION = re.compile(r"(?P<name>\w+)(\((?P<omega>[\d.]+) x\))?")


def official_spec(meta: Meta) -> NetSpec:
    """The architecture that an official module reads.

    Args:
        meta: with ``specs`` (the first is taken), or with ``input_architecture``.

    Raises:
        BaselineError: neither is there.

    Example:
        >>> facts = {"weight_shapes": [[8, 2], [8, 8], [3, 8]], "activation": "relu or tanh"}
        >>> [group.size for group in official_spec({"input_architecture": facts}).groups]
        [2, 8, 8, 3]
    """
    if meta.get("specs"):
        return meta["specs"][0]
    facts = meta.get("input_architecture", {})
    if "weight_shapes" not in facts:
        raise BaselineError(f"official weights need the architecture they read; got {sorted(meta)}: give specs=[...]")
    found = _ACTIVATION.match(facts.get("activation", "relu"))
    assert found is not None
    omega = float(found["omega"]) if found["omega"] else None
    return _chain(facts["weight_shapes"], as_activation(found["name"], omega))


def _chain(shapes: list[list[int]], activation: Any) -> NetSpec:
    """Convolutions, a global mean, dense layers; parameters are called ``l.weight`` and ``l.bias``."""
    chain = ChainBuilder(shapes[0][1])
    for i, shape in enumerate(shapes):
        if len(shape) == 2:
            if i and len(shapes[i - 1]) > 2:
                chain.spatial(SpatialOp("global_avg_pool"))
            chain.linear(f"{i}.weight", shape, bias=f"{i}.bias")
        else:
            chain.conv(f"{i}.weight", shape, bias=f"{i}.bias", facts_known=False)
        if i < len(shapes) - 1:
            chain.activation(activation)
    return chain.build()


def take(state: dict[str, Tensor], key: str) -> Tensor:
    """Take one tensor out of an official state dict; what is left in the end is unknown, see :func:`refuse_rest`.

    Raises:
        BaselineError: it is not there.
    """
    if key not in state:
        raise BaselineError(f"the official weights lack {key!r}; left: {sorted(state)}: check class path, constructor")
    return state.pop(key)


def take_below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take all tensors whose name starts with ``prefix``, named without it.

    Example:
        >>> state = {f"{i}.{k}": v for i in (0, 1) for k, v in nn.Linear(2, 3).state_dict().items()}
        >>> list(take_below(state, "1.")), list(state)
        (['weight', 'bias'], ['0.weight', '0.bias'])
    """
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}


def refuse_rest(state: Mapping[str, Tensor]) -> None:
    """Official entries that no part of the model took are an error.

    Raises:
        BaselineError: there are such entries.
    """
    if state:
        raise BaselineError(f"official weights have unknown entries {sorted(state)}: check class path, constructor")


def load_strict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict in our own names; every entry must be there with its shape.

    Raises:
        BaselineError: names or shapes differ.

    Example:
        >>> load_strict(nn.Linear(2, 3), {"weight": nn.Linear(2, 3).weight})
        Traceback (most recent call last):
        ...
        baselines.errors.BaselineError: official weights do not fit Linear: missing ['bias'], unknown [], ...
    """
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in state.items() if k in own}
    wrong = {k: v for k, v in shapes.items() if v[0] != v[1]}
    if missing or unknown or wrong:
        raise BaselineError(
            f"official weights do not fit {type(module).__name__}: missing {missing}, unknown {unknown}, shapes "
            f"(got, expected) {wrong}: check class path, constructor and specs"
        )
    module.load_state_dict(dict(state))
