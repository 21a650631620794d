"""Find the state dict in what a training script saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graphnfn.errors import ConversionError

_USUAL = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
"""Keys under which scripts keep the weights, the most telling first."""
_OTHER = ("optim", "sched", "scaler", "callback", "loop")
"""Parts of keys that hold tensors that are no weights."""
_DEPTH = 4


def state_dict_of(data: Any, name: str) -> dict[str, Tensor]:
    """The named tensors in a loaded checkpoint, which may lie in it under a key such as ``state_dict``.

    Where several networks lie side by side, all are taken, and the names begin with their keys.

    Raises:
        ConversionError: there are none.

    Example:
        >>> import torch
        >>> list(state_dict_of({"encoder": {"w": torch.ones(1)}, "decoder": {"w": torch.ones(1)}, "step": 3}, "a.pt"))
        ['encoder.w', 'decoder.w']
    """
    found = _find(data, _DEPTH, set())
    if not found:
        raise ConversionError(f"{name}: got {_kind(data)}; expected a state dict, parameter names mapped to tensors")
    return found


def _find(data: Any, depth: int, seen: set[int]) -> dict[str, Tensor]:
    """The weights in a mapping that was not looked at before: files can nest a mapping in itself."""
    if not isinstance(data, Mapping) or not depth or id(data) in seen:
        return {}
    seen.add(id(data))
    parts = {key: value for key, value in data.items() if isinstance(key, str)}
    for key in _USUAL:
        inside = _find(parts.get(key), depth - 1, seen)
        if inside:
            return inside
    weights = {k: v for k, v in parts.items() if not any(word in k.lower() for word in _OTHER)}
    nested = {key: _find(value, depth - 1, seen) for key, value in weights.items()}
    nested = {f"{key}.{name}": tensor for key, inside in nested.items() for name, tensor in inside.items()}
    return nested or {key: value for key, value in parts.items() if isinstance(value, Tensor)}


def _kind(data: Any) -> str:
    return f"a mapping with {len(data)} entries" if isinstance(data, Mapping) else f"a {type(data).__name__}"
