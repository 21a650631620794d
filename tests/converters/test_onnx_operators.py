"""Every operator against onnxruntime, in the versions in which its meaning or form changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converters.onnx import load_onnx


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def ints(*values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


def floats(*values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Case:
    """``fixed`` are inputs that the file holds (None: left out); ``opset`` may be several."""

    op: str
    inputs: list[np.ndarray]
    fixed: list[np.ndarray | None] = field(default_factory=list)
    opset: int | tuple[int, ...] = 17
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def case(op, inputs, fixed=(), opset: Any = 17, outputs=1, **attrs) -> Case:
    return Case(op, inputs, list(fixed), opset, attrs, outputs)


X, IMAGE, MAP, LINE = rand(2, 3), rand(2, 3, 7, 8), rand(2, 4, 6, 6), rand(2, 3, 11)
POSITIVE = np.abs(X) + 0.5
SEQUENCE = rand(5, 2, 3)

UNARY = [case(op, [X]) for op in (
    "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Tan",
    "Atan", "Sinh", "Cosh", "Asinh", "Softplus", "Softsign", "HardSwish", "Elu", "Selu", "Celu", "LeakyRelu",
    "HardSigmoid", "ThresholdedRelu", "Shrink", "Identity", "Dropout", "IsNaN", "IsInf", "Reciprocal",
    "LpNormalization",
)] + [case(op, [POSITIVE]) for op in ("Log", "Sqrt")] + [case("Acosh", [POSITIVE + 1])] + [
    case(op, [X / 8]) for op in ("Asin", "Acos", "Atanh")
] + [case("Gelu", [X], opset=20, approximate=a) for a in ("none", "tanh")] + [case("Mish", [X], opset=18)]  # fmt: skip
SETTINGS = [
    case("LeakyRelu", [X], alpha=0.3), case("Elu", [X], alpha=0.5), case("Celu", [X], alpha=2.0),
    case("Selu", [X], alpha=1.5, gamma=1.1), case("HardSigmoid", [X], alpha=1 / 6, beta=0.5),
    case("ThresholdedRelu", [X], alpha=0.3), case("Shrink", [X], lambd=0.3, bias=0.1),
    case("PRelu", [X], [rand(3)]), case("PRelu", [IMAGE], [rand(3, 1, 1)]), case("PRelu", [IMAGE], [rand(1)]),
    case("PRelu", [IMAGE], [rand(8)]), case("PRelu", [X], [rand(1, 3)]),
    case("Clip", [X], opset=(7, 10), min=-0.5, max=0.5), case("Clip", [X], opset=10, min=0.0),
    case("Clip", [X], [floats(0.0).reshape(()), floats(6.0).reshape(())], opset=(11, 13)),
    case("Clip", [X], [None, floats(0.2).reshape(())]),
    case("Softmax", [IMAGE], opset=(9, 12)), case("Softmax", [IMAGE], opset=(11, 13), axis=2),
    case("Softmax", [IMAGE], opset=13), case("LogSoftmax", [IMAGE], opset=(9, 13), axis=1),
    case("Hardmax", [IMAGE], opset=(11, 13), axis=1), case("IsInf", [X], detect_negative=0),
    case("Cast", [X], to=TensorProto.INT64), case("Cast", [X], to=TensorProto.DOUBLE),
    case("Cast", [X], to=TensorProto.FLOAT16), case("Cast", [X], to=TensorProto.BOOL),
]  # fmt: skip
BINARY = [
    *(case(op, [X, rand(3, seed=1)]) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "LessOrEqual",
                                                "GreaterOrEqual", "Equal", "Max", "Min", "Sum", "Mean")),
    *(case(op, [X], [rand(3, seed=1)]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, [X], [floats(0.3).reshape(())]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less")),
    *(case(op, [X > 0, rand(2, 3, seed=2) > 0]) for op in ("And", "Or", "Xor")), case("Not", [X > 0]),
    case("Pow", [POSITIVE, X]), case("Pow", [X], [floats(2.0).reshape(())], opset=(7, 17)),
    case("Pow", [X], [floats(3)]),
    case("Pow", [POSITIVE], [rand(3)]), case("Div", [ints(7, -7, 8), ints(2, 2, -3)]),
    case("Mod", [ints(7, -7), ints(3, 3)]),
    case("Mod", [X], [floats(0.7)], fmod=1), case("Max", [X, -X, 2 * X]), case("Sum", [X, -X, 2 * X]),
    case("Where", [X > 0, X, rand(2, 3, seed=4)]), case("Where", [X > 0, X], [floats(-1e9).reshape(())]),
    case("Where", [X > 0], [floats(1.0).reshape(()), floats(0.0).reshape(())]),
]  # fmt: skip
LINEAR = [
    case("MatMul", [rand(2, 5, 3)], [rand(3, 4)]), case("MatMul", [rand(2, 5, 3), rand(2, 3, 4)]),
    case("MatMul", [rand(3)], [rand(3, 4)]), case("MatMul", [X], [rand(3)]),
    case("Gemm", [X], [rand(4, 3), rand(4)], opset=(9, 11, 17), transB=1), case("Gemm", [X], [rand(3, 4), rand(4)]),
    case("Gemm", [X], [rand(3, 4), rand(2, 1)], alpha=0.5, beta=2.0),
    case("Gemm", [X], [rand(2, 4)], transA=1, opset=11),
    case("Gemm", [X], [rand(3, 4), rand(1)]), case("Einsum", [rand(2, 3, 4), rand(2, 4, 5)], equation="bij,bjk->bik"),
    case("Conv", [LINE], [rand(5, 3, 3), rand(5)]),
    case("Conv", [IMAGE], [rand(6, 3, 3, 3)], strides=[2, 1], pads=[1, 0, 1, 0]),
    case("Conv", [IMAGE], [rand(6, 3, 3, 3), rand(6)], pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("Conv", [IMAGE], [rand(6, 1, 3, 3)], group=3), case("Conv", [MAP], [rand(6, 2, 3, 3), rand(6)], group=2),
    *(case("Conv", [IMAGE], [rand(2, 3, 3, 2)], auto_pad=a, strides=[2, 2])
      for a in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    case("Conv", [rand(1, 2, 4, 5, 6)], [rand(3, 2, 2, 2, 2)]),
    case("ConvTranspose", [IMAGE], [rand(3, 4, 3, 3), rand(4)]),
    case("ConvTranspose", [MAP], [rand(4, 2, 3, 3)], group=2),
    case("ConvTranspose", [IMAGE], [rand(3, 4, 3, 3)], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", [IMAGE], [rand(3, 4, 3, 3), rand(4)], strides=[2, 2], pads=[0, 1, 1, 0]),
    case("ConvTranspose", [IMAGE], [rand(3, 4, 3, 3)], strides=[2, 2], output_shape=[14, 16]),
    case("ConvTranspose", [IMAGE], [rand(3, 4, 3, 3)], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", [LINE], [rand(3, 4, 3)], dilations=[2]),
]  # fmt: skip
NORMS = [
    case("BatchNormalization", [IMAGE], [rand(3), rand(3, seed=1), rand(3, seed=2), floats(0.5, 1, 2)],
         opset=(9, 14, 17)),
    case("BatchNormalization", [X], [rand(3), rand(3), rand(3), floats(0.5, 1, 2)], epsilon=0.1),
    case("InstanceNormalization", [IMAGE], [rand(3), rand(3)]),
    case("InstanceNormalization", [LINE], [np.ones(3, np.float32), np.zeros(3, np.float32)]),
    case("LayerNormalization", [IMAGE], [rand(8), rand(8)]), case("LayerNormalization", [IMAGE], [rand(7, 8)], axis=2),
    case("GroupNormalization", [MAP], [rand(4), rand(4)], opset=21, num_groups=2),
    case("GroupNormalization", [MAP], [rand(2), rand(2)], opset=18, num_groups=2),
    case("LRN", [IMAGE], size=3, alpha=0.1), case("MeanVarianceNormalization", [IMAGE]),
]  # fmt: skip
POOLS = [
    case("MaxPool", [IMAGE], kernel_shape=[3, 2]),
    case("MaxPool", [IMAGE], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    case("MaxPool", [IMAGE - 9], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", [IMAGE - 9], kernel_shape=[3, 3], pads=[2, 1, 0, 1]),
    case("MaxPool", [IMAGE], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", [LINE], kernel_shape=[3], dilations=[2]),
    case("MaxPool", [IMAGE - 9], kernel_shape=[2, 3], strides=[1, 3], pads=[1, 0, 0, 2]),
    *(case(op, [IMAGE - 9], kernel_shape=[3, 2], strides=[2, 2], auto_pad=a) for op in ("MaxPool", "AveragePool")
      for a in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    case("AveragePool", [IMAGE], kernel_shape=[3, 3], pads=[1] * 4), case("AveragePool", [LINE], kernel_shape=[3]),
    case("AveragePool", [IMAGE], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", [IMAGE], kernel_shape=[3, 3], pads=[0, 1, 2, 0]),
    case("AveragePool", [IMAGE], kernel_shape=[3, 3], pads=[0, 1, 2, 0], count_include_pad=1),
    case("AveragePool", [IMAGE], kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, opset=19),
    case("GlobalAveragePool", [IMAGE]), case("GlobalMaxPool", [IMAGE]),
    case("LpPool", [IMAGE], kernel_shape=[2, 2], p=2),
]  # fmt: skip
SIZES = [
    *(case("Resize", [IMAGE], [None, floats(1, 1, 2, 1.5)], mode=m, coordinate_transformation_mode=t)
      for m in ("nearest", "linear", "cubic")
        for t in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    *(case("Resize", [IMAGE], [None, None, ints(2, 3, 4, 5)], mode=m) for m in ("nearest", "linear", "cubic")),
    *(case("Resize", [IMAGE], [None, floats(1, 1, 0.6, 2)], nearest_mode=n) for n in
      ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    case("Resize", [IMAGE], [None, floats(1, 1, 0.7, 2)], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    case("Resize", [IMAGE], [floats(1, 1, 2, 2)], opset=10),
    case("Resize", [IMAGE], [floats(1, 1, 2, 2)], opset=10, mode="linear"),
    case("Resize", [IMAGE], [None, floats(2, 1.5)], opset=18, axes=[2, 3]),
    case("Upsample", [IMAGE], [floats(1, 1, 2, 3)], opset=9),
    case("Upsample", [IMAGE], opset=7, scales=[1.0, 1.0, 2.0, 2.0]),
    case("GridSample", [IMAGE, np.tanh(rand(2, 4, 5, 2))], opset=(16, 20)),
]  # fmt: skip
REDUCE = [
    *(case(op, [POSITIVE], opset=(11, 13), axes=[1]) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
      "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")),
    *(case(op, [IMAGE], [ints(-1, 1)], opset=18, keepdims=0) for op in ("ReduceMean", "ReduceMax", "ReduceSum")),
    case("ReduceSum", [IMAGE], [ints(2)], opset=13), case("ReduceSum", [IMAGE], opset=11, axes=[0, 2], keepdims=0),
    case("ReduceSum", [IMAGE], [ints()], noop_with_empty_axes=1), case("ReduceMean", [IMAGE], keepdims=0),
    case("ArgMax", [IMAGE], axis=1), case("ArgMin", [IMAGE], axis=-1, keepdims=0),
    case("TopK", [X], [ints(2)], outputs=2),
    case("CumSum", [X], [ints(1).reshape(())]), case("CumSum", [X], [ints(1)[0:1].reshape(())], exclusive=1, reverse=1),
]  # fmt: skip
LAYOUT = [
    case("Reshape", [IMAGE], [ints(0, -1, 4)]), case("Reshape", [IMAGE], [ints(2, 168)]), case("Flatten", [IMAGE]),
    case("Flatten", [IMAGE], axis=0), case("Flatten", [IMAGE], axis=-2), case("Transpose", [IMAGE]),
    case("Transpose", [IMAGE], perm=[0, 2, 3, 1]), case("Squeeze", [rand(2, 1, 3, 1)], opset=11, axes=[1]),
    case("Squeeze", [rand(2, 1, 3, 1)], [ints(-1)]), case("Squeeze", [rand(2, 1, 3, 1)]),
    case("Unsqueeze", [X], opset=11, axes=[0, 3]), case("Unsqueeze", [X], [ints(-1, 1)]),
    case("Expand", [X], [ints(4, 1, 1)]),
    case("Tile", [X], [ints(2, 3)]), case("Concat", [X, -X], axis=-1), case("Concat", [X], [rand(2, 2)], axis=1),
    case("Split", [IMAGE], opset=11, axis=3, split=[3, 5], outputs=2),
    case("Split", [IMAGE], [ints(1, 2)], axis=1, outputs=2),
    case("Split", [IMAGE], axis=3, outputs=4), case("Split", [IMAGE], opset=18, axis=2, num_outputs=3, outputs=3),
    case("Slice", [IMAGE], opset=9, starts=[1, -3], ends=[1000, -1], axes=[2, 3]),
    case("Slice", [IMAGE], [ints(-1, 6), ints(-1000, 1), ints(3, 2), ints(-2, -1)]),
    case("Slice", [IMAGE], [ints(0, 1), ints(1, 3)]),
    case("Slice", [IMAGE], [ints(5), ints(2), ints(3)]),
    case("Pad", [IMAGE], opset=9, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
    case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 0, 1)]),
    case("Pad", [IMAGE], [ints(0, 1, -1, 2, 0, 0, 0, 1), floats(2.0).reshape(())]),
    *(case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 3, 1)], mode=m) for m in ("reflect", "edge")),
    case("Pad", [IMAGE], [ints(1, 2), None, ints(-1)], opset=18, mode="edge"),
    case("Pad", [IMAGE], [ints(2, 1), None, ints(2)], opset=19, mode="wrap"),
    *(case("DepthToSpace", [MAP], blocksize=2, mode=m) for m in ("DCR", "CRD")),
    case("SpaceToDepth", [MAP], blocksize=2),
    case("Trilu", [X], upper=0), case("Trilu", [X], [ints(1).reshape(())]), case("EyeLike", [X], k=1),
]  # fmt: skip
PICK = [
    case("Gather", [ints(2, 0, -1)], [], opset=11), case("Gather", [IMAGE], [ints(1).reshape(())], axis=1),
    case("Gather", [IMAGE], [ints(-1, 0)], axis=3), case("Gather", [IMAGE], [ints(2, 3, 4)], axis=2),
    case("Gather", [IMAGE], [ints([0, 1], [2, 2])], axis=1), case("Gather", [X, ints([0, -1], [1, 1])]),
    case("GatherElements", [X], [ints([0, -1], [2, 1])], axis=1), case("GatherND", [IMAGE], [ints([0, 1], [1, -1])]),
    case("ScatterElements", [X], [ints([0], [-1]), rand(2, 1)], axis=1),
    case("ScatterND", [X], [ints([1], [0]), rand(2, 3, seed=8)]),
    case("ScatterElements", [X], [ints([0, 0], [2, 1]), rand(2, 2)], axis=1, reduction="add", opset=16),
    case("OneHot", [ints(0, 2, -1)], [ints(4).reshape(()), floats(-1, 1)]),
    case("OneHot", [ints(0, 2, 1)], [ints(3).reshape(()), floats(0, 2)], axis=0),
]  # fmt: skip
PICK[0] = case("Gather", [rand(4, 3), ints(2, 0, -1)], opset=11)


def recurrent(op: str, directions: int, gates: int, fixed=(), opset: Any = (9, 14), **attrs) -> Case:
    """Three inputs, four units; ``fixed`` are lengths, states and peepholes."""
    weights = [rand(directions, gates * 4, 3) / 2, rand(directions, gates * 4, 4) / 2, rand(directions, gates * 8) / 2]
    count = {"LSTM": 3}.get(op, 2)
    return case(op, [SEQUENCE], [*weights, *fixed], opset, count, hidden_size=4, **attrs)


STATE = rand(1, 2, 4)
RECURRENT = [
    recurrent("LSTM", 1, 4), recurrent("GRU", 1, 3, linear_before_reset=1), recurrent("GRU", 1, 3),
    recurrent("RNN", 1, 1),
    recurrent("RNN", 1, 1, activations=["Relu"]),
    *(recurrent(op, 1, g, direction="reverse") for op, g in (("LSTM", 4), ("GRU", 3), ("RNN", 1))),
    *(recurrent(op, 2, g, direction="bidirectional") for op, g in (("LSTM", 4), ("GRU", 3), ("RNN", 1))),
    recurrent("GRU", 2, 3, direction="bidirectional", linear_before_reset=1),
    recurrent("LSTM", 1, 4, [None, STATE, -STATE]),
    recurrent("LSTM", 1, 4, [np.full(2, 5, np.int32), np.zeros_like(STATE), np.zeros_like(STATE)]),
    recurrent("LSTM", 1, 4, [None, None, None, rand(1, 12)]),
    recurrent("GRU", 1, 3, [None, STATE], linear_before_reset=1),
    recurrent("GRU", 1, 3, [None, STATE]), recurrent("LSTM", 1, 4, activations=["HardSigmoid", "Tanh", "Relu"]),
    recurrent("LSTM", 1, 4, activations=["HardSigmoid", "Tanh", "Tanh"], activation_alpha=[0.3], activation_beta=[0.4]),
    recurrent("LSTM", 1, 4, clip=0.3), recurrent("LSTM", 1, 4, input_forget=1), recurrent("GRU", 1, 3, clip=0.3),
]  # fmt: skip
CASES = [*UNARY, *SETTINGS, *BINARY, *LINEAR, *NORMS, *POOLS, *SIZES, *REDUCE, *LAYOUT, *PICK, *RECURRENT]


def model_of(case: Case, opset: int):
    """One node; inputs are the graph's, what is fixed are initialisers."""
    names = [f"x{k}" for k in range(len(case.inputs))]
    held = [(f"w{k}" if v is not None else "", v) for k, v in enumerate(case.fixed)]
    outputs = [f"y{k}" for k in range(case.outputs)]
    node = helper.make_node(case.op, [*names, *(n for n, _ in held)], outputs, **case.attrs)
    graph = helper.make_graph(
        [node], "case",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
         for n, v in zip(names, case.inputs, strict=True)],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in held if v is not None],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def reference(model, inputs: list[np.ndarray]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, {i.name: v for i, v in zip(session.get_inputs(), inputs, strict=True)}))


def numbered() -> list[Any]:
    out = []
    for c in CASES:
        for opset in c.opset if isinstance(c.opset, tuple) else (c.opset,):
            out.append(pytest.param(c, opset, id=f"{c.op}-{opset}-{len(out)}"))
    return out


@pytest.mark.parametrize(("case", "opset"), numbered())
def test_operator(case, opset, tmp_path):
    model = model_of(case, opset)
    expected = reference(model, case.inputs)
    (tmp_path / "case.onnx").write_bytes(model.SerializeToString())
    inputs = tuple(torch.from_numpy(v.copy()) for v in case.inputs)
    loaded = load_onnx(tmp_path / "case.onnx", inputs)
    with torch.no_grad():
        got = loaded.module(*inputs)
        wide = loaded.module.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    if case.op != "Cast":  # that may ask for half precision
        torch.testing.assert_close(wide, got, rtol=1e-4, atol=1e-5, check_dtype=False)
    for a, b in zip(got if isinstance(got, tuple) else [got], expected, strict=True):
        assert a.shape == b.shape and a.numpy().dtype == b.dtype
        np.testing.assert_allclose(a.numpy().astype(float), b.astype(float), rtol=1e-5, atol=2e-6)
