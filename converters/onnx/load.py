"""``load_onnx``: an ONNX file as a module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from converters.loaded import Loaded
from converters.onnx.examples import example_inputs
from converters.onnx.files import read_model
from converters.onnx.module import OnnxModule
from converters.onnx.plan import plan_of
from graphnfn.errors import ConversionError


def load_onnx(path: str | Path, inputs: Sequence[Tensor] | None = None) -> Loaded:
    """The network in an ONNX file; nothing in it is executed but its operators.

    Weights are floating-point initialisers and constants that are no settings (bounds, exponents, scales of a
    resize); they keep name, shape, layout and type.  A weight in a Constant node has the name of that node's output.

    Args:
        path: of the file; values that lie in other files must lie in its own folder.
        inputs: example inputs, where those that are found do not suit.

    Raises:
        ConversionError: the file is missing, damaged or too large, a node is not supported (``If``, ``Loop`` and other
            operators with graphs of their own never are), or no example input is found.

    Example:
        >>> load_onnx("missing.onnx")
        Traceback (most recent call last):
        ...
        graphnfn.errors.ConversionError: missing.onnx: no such file; expected an ONNX model (.onnx)
    """
    path = Path(path)
    model, opset = read_model(path)
    try:
        module = OnnxModule(plan_of(model.graph, opset, path.parent)).eval()
        declared = [i for i in model.graph.input if i.name in module.plan.inputs]
        found = example_inputs(module, declared) if inputs is None else tuple(inputs)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    return Loaded(module, found, {place: name for name, place in module.places.items()})
