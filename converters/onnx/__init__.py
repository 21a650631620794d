"""ONNX files as modules, and back."""

from converters.onnx.load import load_onnx
from converters.onnx.write import write_onnx

__all__ = ["load_onnx", "write_onnx"]
