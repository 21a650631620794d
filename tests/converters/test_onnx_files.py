"""ONNX files as files: tensors in all their places, damage, and writing back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converters.onnx import load_onnx, write_onnx
from graphnfn.errors import ConversionError

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name, *values, dtype: Any = np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def save(path: Path, nodes, tensors=(), inputs=(("x", (2, 3)),), outputs=("y",), opset=17) -> Path:
    graph = helper.make_graph(
        nodes, "g", [info(*i) for i in inputs], [helper.make_empty_tensor_value_info(o) for o in outputs], list(tensors)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def mlp(path: Path, **changes) -> Path:
    """``relu(x W + b)``."""
    tensors = [
        numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4) - 6, "fc.weight"),
        tensor("b", 1, 2, 3, 4),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "fc.weight"], ["h"], name="product"),
        helper.make_node("Add", ["h", "b"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return save(path, **{"nodes": nodes, "tensors": tensors, **changes})


def test_names_and_layout(tmp_path):
    loaded = load_onnx(mlp(tmp_path / "m.onnx"))
    assert dict(loaded.names) == {"fc.weight": "fc.weight", "b": "b"}
    assert loaded.module.get_parameter("fc.weight").shape == (3, 4)
    assert loaded.inputs[0].shape == (2, 3)


def test_awkward_names(tmp_path):
    """Names that PyTorch cannot take, or that clash, are changed; the mapping tells."""
    names = ["forward", "a", "a.b", "a.b.", "x/y:0", "x_y_0", "..", "places"]
    nodes = [helper.make_node("Sum", ["x", *names], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor(n, k, 0, 0) for k, n in enumerate(names)])
    loaded = load_onnx(path)
    assert sorted(loaded.names.values()) == sorted(names)
    for place, name in loaded.names.items():
        assert loaded.module.state_dict()[place][0] == names.index(name)
    assert torch.allclose(loaded.module(*loaded.inputs) - loaded.inputs[0], torch.tensor([28.0, 0, 0]), atol=1e-5)


def test_weights_in_constant_nodes_and_settings_outside(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("other", 1, 2, 3)),
        helper.make_node("Constant", [], ["low"], value=numpy_helper.from_array(np.array(0, np.float32), "")),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["shape"], value_ints=[3, 2]),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low"], ["b"]),
        helper.make_node("Mul", ["b", "half"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Resize", ["d4", "", "scales"], ["y"]),
    ]
    nodes.insert(8, helper.make_node("Reshape", ["d", "four"], ["d4"]))
    held = [tensor("scales", 1, 1, 2, 2), tensor("four", 1, 1, 3, 2, dtype=np.int64)]
    loaded = load_onnx(save(tmp_path / "m.onnx", nodes, held))
    assert dict(loaded.names) == {"w": "w"}
    assert loaded.module(*loaded.inputs).shape == (1, 1, 6, 4)


def test_only_what_outputs_need(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NoSuchThing", ["x"], ["z"])]
    loaded = load_onnx(save(tmp_path / "m.onnx", nodes, [tensor("unused", 1, 2)]))
    assert not loaded.names


def test_nodes_in_any_order(tmp_path):
    nodes = [helper.make_node("Neg", ["h"], ["y"]), helper.make_node("Relu", ["x"], ["h"])]
    loaded = load_onnx(save(tmp_path / "m.onnx", nodes))
    assert torch.equal(loaded.module(*loaded.inputs), -loaded.inputs[0].relu())


def test_inputs_that_are_found(tmp_path):
    """Tables bound the indices; open sizes are tried until all nodes run; batches of two."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Reshape", ["e", "shape"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.ones((5, 3), np.float32), "table"), tensor("shape", -1, 64, 3, dtype=np.int64)]
    path = save(tmp_path / "m.onnx", nodes, held, [("ids", ("batch", "time"), INT)])
    (ids,) = load_onnx(path).inputs
    assert ids.shape == (2, 32) and 0 <= ids.min() and 3 <= ids.max() < 5
    own = torch.zeros(1, 128, dtype=torch.int64)
    assert load_onnx(path, [own]).inputs[0] is own


BAD = {
    "cycle": ({"nodes": [helper.make_node("Add", ["x", "c"], ["a"]), helper.make_node("Relu", ["a"], ["c"]),
                          helper.make_node("Relu", ["c"], ["y"])]}, "depends on its own result"),
    "self": ({"nodes": [helper.make_node("Add", ["x", "y"], ["y"])]}, "depends on its own result"),
    "missing": ({"nodes": [helper.make_node("Relu", ["q"], ["y"])]}, "'q' is read but nothing makes it"),
    "twice": ({"nodes": [helper.make_node("Relu", ["x"], ["y"]),
      helper.make_node("Neg", ["x"], ["y"])]}, "made twice"),
    "output": ({"outputs": ["nowhere"]}, "'nowhere' is read but nothing makes it"),
    "no output": ({"outputs": []}, "no output"),
    "operator": ({"nodes": [helper.make_node("Det", ["x"], ["y"], name="mine")]}, "node 'mine' .* operator 'Det'"),
    "domain": ({"nodes": [helper.make_node("Relu", ["x"], ["y"], domain="com.example")]}, "domain 'com.example'"),
    "version": ({"opset": 6}, "operator set 6"),
    "shapes": ({"tensors": [tensor("fc.weight", 1, 2), tensor("b", 1)]}, "node 'product' .* cannot be computed"),
    "same name": ({"tensors": [tensor("b", 1), tensor("b", 2)]}, "two initialisers are named 'b'"),
    "strings": ({"tensors": [numpy_helper.from_array(np.array(["x"], object), "b")],
                     "nodes": [helper.make_node("Add", ["x", "b"], ["y"])]}, "element type STRING"),
    "huge known": ({"nodes": [helper.make_node("ConstantOfShape", ["n"], ["h"]),
      helper.make_node("Add", ["x", "h"], ["y"])],
                        "tensors": [tensor("n", 1 << 40, dtype=np.int64)]}, "asks for a known array"),
    "huge tile": ({"nodes": [helper.make_node("Tile", ["x", "n"], ["y"])],
                       "tensors": [tensor("n", 1 << 20, 1 << 20, dtype=np.int64)]}, "the limit is"),
    "huge input": ({"inputs": [("x", (1 << 20, 1 << 20))]}, "too large to try"),
    "endless": ({"nodes": [helper.make_node("Range", ["o", "l", "o"], ["h"]),
      helper.make_node("Add", ["x", "h"], ["y"])],
                     "tensors": [numpy_helper.from_array(np.array(0), "o"), numpy_helper.from_array(np.array(3), "l")]},
                "does not end"),
    "computed": ({"nodes": [helper.make_node("Cast", ["x"], ["n"], to=INT),
      helper.make_node("Reshape", ["x", "n"], ["y"])]},
                 "must be a constant or follow from shapes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_graph(kind, tmp_path):
    changes, message = BAD[kind]
    with pytest.raises(ConversionError, match=message):
        load_onnx(mlp(tmp_path / "m.onnx", **changes))


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_subgraphs_are_refused(op, tmp_path):
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [info("r", None)])
    node = helper.make_node(op, ["x"], ["y"], name="branch")
    node.attribute.append(helper.make_attribute("then_branch" if op == "If" else "body", body))
    with pytest.raises(ConversionError, match=rf"node 'branch' \({op}\) holds graphs of its own"):
        load_onnx(save(tmp_path / "m.onnx", [node]))


def damage(path: Path, change) -> Path:
    model = onnx.load(str(path))
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.dims.__setitem__(0, -3), "must not be negative"),
        (lambda t: t.dims.__setitem__(0, 1 << 40), "the limit is"),
        (lambda t: t.dims.__setitem__(0, 2), "48 bytes; its shape"),
        (lambda t: setattr(t, "data_type", 99), "element type 99"),
        (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), "asks for 12 values, 96 bytes"),
        (lambda t: t.float_data.extend([1.0] * 12), "48 bytes"),
    ],
)
def test_bad_tensor(change, message, tmp_path):
    with pytest.raises(ConversionError, match=message):
        load_onnx(damage(mlp(tmp_path / "m.onnx"), change))


def outside(path: Path, location: str, **entries) -> Path:
    """The first tensor lies in another file."""

    def move(t):
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            t.external_data.add(key=key, value=str(value))

    return damage(mlp(path), move)


def test_external_data(tmp_path):
    values = np.arange(12, dtype=np.float32)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.bin").write_bytes(b"head" + values.tobytes() + b"tail")
    path = outside(tmp_path / "in" / "m.onnx", "w.bin", offset=4, length=48)
    loaded = load_onnx(path)
    assert torch.equal(loaded.module.get_parameter("fc.weight"), torch.arange(12.0).view(3, 4))
    with pytest.raises(ConversionError, match="write to another folder"):
        write_onnx(path, {}, tmp_path / "in" / "n.onnx")
    (tmp_path / "out").mkdir()
    write_onnx(path, {"fc.weight": -values.reshape(3, 4)}, tmp_path / "out" / "n.onnx")
    assert (tmp_path / "out" / "n.onnx").read_bytes() == path.read_bytes()
    assert (tmp_path / "out" / "w.bin").read_bytes() == b"head" + (-values).tobytes() + b"tail"
    assert (tmp_path / "in" / "w.bin").read_bytes() == b"head" + values.tobytes() + b"tail"


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("../w.bin", {}, "own folder"),
        ("sub/../../w.bin", {}, "own folder"),
        ("{abs}", {}, "own folder"),
        ("", {}, "own folder"),
        ("a\0b", {}, "own folder"),
        ("link.bin", {}, "own folder"),
        ("none.bin", {}, "missing"),
        ("here.bin", {"offset": 4}, "the file has 48"),
        ("here.bin", {"offset": -4}, "takes bytes"),
        ("here.bin", {"length": 4}, "asks for 48"),
        ("here.bin", {"offset": "x"}, "no number"),
    ],
)
def test_external_data_stays_in_its_folder(location, entries, message, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(48))
    (home / "here.bin").write_bytes(bytes(48))
    (home / "link.bin").symlink_to(tmp_path / "w.bin")
    path = outside(home / "m.onnx", location.replace("{abs}", str(tmp_path / "w.bin")), **entries)
    with pytest.raises(ConversionError, match=message):
        load_onnx(path)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
def test_write_keeps_types_and_fields(kind, typed, tmp_path):
    """Values go into the field that held them, rounded to its type; the rest of the file stays."""
    code = getattr(TensorProto, kind)
    weight = helper.make_tensor("w", code, [3], [0.5, -1.0, 2.0])
    if not typed:
        weight = numpy_helper.from_array(numpy_helper.to_array(weight), "w")
    assert bool(weight.raw_data) != typed
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], name="m", doc_string="kept")]
    path = save(tmp_path / "m.onnx", nodes, [weight, tensor("spare", 7)], [("x", (2, 3), code)])
    loaded = load_onnx(path)
    assert loaded.module.get_parameter("w").tolist() == [0.5, -1.0, 2.0]
    write_onnx(path, {"w": loaded.module.get_parameter("w")}, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()
    write_onnx(path, {"w": np.array([3.0, 1 / 3, -4.0])}, tmp_path / "other.onnx")
    model = onnx.load(str(tmp_path / "other.onnx"))
    assert bool(model.graph.initializer[0].raw_data) != typed and model.graph.initializer[0].data_type == code
    other = load_onnx(tmp_path / "other.onnx").module.get_parameter("w")
    assert torch.equal(other, torch.tensor([3.0, 1 / 3, -4.0], dtype=torch.float64).to(other.dtype))
    model.graph.initializer[0].CopyFrom(weight)
    assert model.SerializeToString() == path.read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({"nope": np.ones(3)}, "no tensor 'nope'"), ({"b": np.ones(3)}, r"has shape \(3,\); the file has \(4,\)"),
     ({"b": np.full(4, 1e300)}, "not finite as torch.float32")],
)  # fmt: skip
def test_write_refuses(tensors, message, tmp_path):
    path = mlp(tmp_path / "m.onnx")
    with pytest.raises(ConversionError, match=message):
        write_onnx(path, tensors, tmp_path / "n.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_no_such_file_and_no_onnx(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("none.onnx", "text.onnx", "empty.onnx"):
        with pytest.raises(ConversionError, match=name):
            load_onnx(tmp_path / name)


NUMBERS = (-1, 0, 1, 2, 255, 1 << 20, 1 << 31, (1 << 62) + 1, -(1 << 63))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Truncated, with flipped bits, or with another number in a shape or setting."""
    kind = rng.randrange(3)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        out = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return bytes(out)
    model = onnx.load_from_string(data)
    lists = [a.ints for n in model.graph.node for a in n.attribute if a.ints]
    lists += [t.dims for t in model.graph.initializer if t.dims]
    held = [t for t in model.graph.initializer if t.data_type == INT and t.raw_data]
    if held and rng.random() < 0.3:
        chosen = rng.choice(held)
        values = numpy_helper.to_array(chosen).copy()
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice(NUMBERS)
        chosen.raw_data = values.tobytes()
    elif lists:
        chosen = rng.choice(lists)
        chosen[rng.randrange(len(chosen))] = rng.choice(NUMBERS)
    else:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = abs(rng.choice(NUMBERS)) >> 1
    return model.SerializeToString()


def test_damaged_files_are_refused_or_run(tmp_path):
    """Whatever the bytes: a ConversionError or a network that has inputs; both happen."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "", "sizes"], ["r"]),
        helper.make_node("Slice", ["r", "zero", "end", "axis"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["t"], ["n"]),
        helper.make_node("Gather", ["n", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["t", "shape"], ["f"]),
        helper.make_node("Pad", ["f", "pads"], ["y"]),
    ]
    numbers = {"sizes": (2, 4, 6, 6), "zero": (0,), "end": (5,), "axis": (2,), "rest": (-1,), "pads": (0, 1, 0, 1)}
    held = [tensor(name, *values, dtype=np.int64) for name, values in numbers.items()]
    held.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "k"))
    path = save(tmp_path / "m.onnx", nodes, held, [("x", (2, 3, 8, 8))])
    data, rng, good = path.read_bytes(), random.Random(0), 0
    assert load_onnx(path).inputs
    for _ in range(300):
        path.write_bytes(mutated(data, rng))
        try:
            good += len(load_onnx(path).inputs) >= 0
        except ConversionError as error:
            assert "m.onnx" in str(error)
    assert 10 < good < 290
