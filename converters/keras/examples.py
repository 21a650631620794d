"""Small inputs that a model takes, found by trying sizes on tensors without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from converters.keras.config import Config
from converters.keras.dense import Embedding
from converters.keras.layer import Apply, Layer
from converters.keras.network import Network
from converters.keras.plan import Ref
from converters.keras.wrappers import TimeDistributed
from graphnfn.errors import ConversionError

BATCH = 2
OPEN_SIZES = (8, 16, 32, 64, 128, 256)
"""Tried in turn for axes whose size the model leaves open."""
MAX_VALUES = 1 << 28
"""Largest number of values that a layer may make from the example inputs."""


def example_inputs(network: Network) -> tuple[Tensor, ...]:
    """Inputs for a model with its tensors, from the shapes that it declares; the same ones every time.

    Raises:
        ConversionError: it declares none, or cannot run on any.
    """
    shapes = [_declared(network, config) for _, config in network.inputs]
    state = {name: value.to("meta") for name, value in network.state_dict().items()}
    dtype = _dtype(state)
    problem = ""
    for size in OPEN_SIZES if any(None in shape for shape in shapes) else OPEN_SIZES[:1]:
        sizes = [[BATCH, *(size if s is None else s for s in shape)] for shape in shapes]
        problem = _problem(network, state, tuple(torch.empty(s, dtype=dtype, device="meta") for s in sizes))
        if not problem:
            break
    else:
        raise ConversionError(problem)
    generator = torch.Generator().manual_seed(0)
    made = []
    for (ref, config), shape in zip(network.inputs, sizes, strict=True):
        bound = _vocabulary(network, ref)
        if bound is not None or "int" in str(config.values.get("dtype")):
            made.append(torch.randint(min(1, (bound or 2) - 1), bound or 2, shape, generator=generator))
        else:
            made.append(torch.randn(shape, generator=generator).to(dtype))
    return tuple(made)


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The type of the inputs: that of the weights."""
    found = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(found) > 1:
        raise ConversionError(
            f"got weights of types {sorted(map(str, found))}; expected one: save the model in float32"
        )
    return found.pop() if found else torch.float32


def _declared(network: Network, config: Config) -> list[int | None]:
    """The shape of an input behind the batch, None where it is open."""
    model = network.config.values
    built = model.get("build_input_shape")
    for shape in (config.values.get("batch_shape"), config.values.get("batch_input_shape"), built):
        if isinstance(shape, list) and len(shape) > 0:
            sizes = shape[1:]
            good = all(s is None or (isinstance(s, int) and not isinstance(s, bool) and s > 0) for s in sizes)
            if not good:
                raise ConversionError(
                    f"input {config.name!r}: got the shape {str(shape)[:80]}, expected positive sizes"
                )
            return sizes
    raise ConversionError(
        f"model {network.config.name!r} declares no input shape; expected an InputLayer or a batch_input_shape: "
        "call the model once and save it again"
    )


def _problem(network: Network, state: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> str:
    """Why the model cannot run on these inputs; empty if it can. They have no memory, so nothing is computed."""
    current = ["its input"]

    def enter(part: torch.nn.Module, args: Any) -> None:
        if isinstance(part, Layer):
            current[0] = f"layer {part.config.name!r} ({part.config.kind})"

    def check(part: torch.nn.Module, args: Any, result: Any) -> None:
        for value in result if isinstance(result, tuple) else (result,):
            if value.numel() > MAX_VALUES:
                raise ConversionError(f"makes {value.numel()} values; expected at most {MAX_VALUES}")

    parts = [part for part in network.modules() if isinstance(part, Layer)]
    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(check) for part in parts]
    try:
        check(network, (), inputs)
        torch.func.functional_call(network, dict(state), inputs)
    except Exception as error:  # settings that do not fit end in any of torch's errors
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        shapes = [list(x.shape) for x in inputs]
        return f"{current[0]} cannot run on inputs of shapes {shapes}: {first[:300]}"
    finally:
        for hook in hooks:
            hook.remove()
    return ""


def _vocabulary(network: Network, ref: Ref) -> int | None:
    """How many indices an input may take, if it is looked up in an embedding."""
    for call in network.calls:
        if ref not in call.refs():
            continue
        part = network.part(call.layer)
        if isinstance(part, TimeDistributed):
            part = part.layer
        if isinstance(part, Embedding):
            return part.vocabulary
        inside = None
        if isinstance(part, Network):
            inside = _vocabulary(part, part.inputs[call.refs().index(ref)][0])
        elif isinstance(part, Apply):
            inside = _vocabulary(network, (call.layer, call.index, 0))
        if inside is not None:
            return inside
    return None
