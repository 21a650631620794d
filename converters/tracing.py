"""Trace a module into its operations, in order of execution, and record the shapes between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from converters import rules
from graphnfn.errors import ConversionError


class _Tracer(fx.Tracer):
    """Stops at layers that compute what PyTorch's own do, also where users subclass them (for an initialisation)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rules.layer_type(m) is not None or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule:
    """The operations of a module.

    Raises:
        ConversionError: its forward depends on values, is no Python code, or fails.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise ConversionError(f"{name!r} has no shape yet: run the module once before converting it")
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        kind = type(module).__name__
        raise ConversionError(f"{kind} cannot be traced ({error}); supported: {rules.SUPPORTED}") from error


def shapes(traced: fx.GraphModule, example_input: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of every traced value, from one run in eval mode; the module's modes are put back.

    Raises:
        ConversionError: the module does not take this input.
    """
    found: dict[str, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape)
            return value

    modes = {part: part.training for part in traced.modules()}
    try:
        with torch.no_grad():
            Recorder(traced.eval()).run(example_input)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise ConversionError(f"example_input of shape {tuple(example_input.shape)} does not run: {first}") from error
    finally:
        for part, training in modes.items():
            part.training = training
    return found


def name_of(node: fx.Node, module: nn.Module) -> str:
    """What an error calls an operation: its place and its type."""
    if node.op == "call_module":
        return f"{node.target!r} ({type(module.get_submodule(str(node.target))).__name__})"
    return f"{node.op.removeprefix('call_')} {getattr(node.target, '__name__', node.target)}"
