"""Hugging Face folders as files: every way to store the same, bytes that stay, bad folders."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters.huggingface import load_huggingface, write_huggingface
from converters.huggingface.config import Config
from converters.huggingface.layers import rotary_frequencies
from graphnfn.errors import ConversionError


def bert(width=8, heads=2, layers=1):
    """A BERT of random numbers, without the reference implementation."""
    g = torch.Generator().manual_seed(0)
    shapes = {"embeddings.word_embeddings.weight": (11, width), "embeddings.position_embeddings.weight": (9, width)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, width)}
    shapes |= {f"embeddings.LayerNorm.{p}": (width,) for p in ("weight", "bias")}
    for i in range(layers):
        start = f"encoder.layer.{i}"
        parts = {f"attention.self.{n}": (width, width) for n in ("query", "key", "value")}
        parts |= {
            "attention.output.dense": (width, width),
            "intermediate.dense": (12, width),
            "output.dense": (width, 12),
        }
        for name, shape in parts.items():
            shapes |= {f"{start}.{name}.weight": shape, f"{start}.{name}.bias": shape[:1]}
        shapes |= {
            f"{start}.{n}LayerNorm.{p}": (width,) for n in ("attention.output.", "output.") for p in ("weight", "bias")
        }
    config = {"model_type": "bert", "hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    config |= {"vocab_size": 11, "max_position_embeddings": 9, "intermediate_size": 12}
    return config, {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    config, tensors = bert()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    return tmp_path / "m"


def run(loaded):
    with torch.no_grad():
        return loaded.module(*loaded.inputs)[0]


def sharded(folder, tensors, suffix):
    names = list(tensors)
    parts = {f"part-{i}{suffix}": names[i::3] for i in range(3)}
    for file, inside in parts.items():
        part = {n: tensors[n] for n in inside}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
    base = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    index = {"metadata": {}, "weight_map": {n: file for file, inside in parts.items() for n in inside}}
    (folder / f"{base}.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("kind", ["shards", "bin", "bin shards"])
def test_every_way_to_store_the_same(folder, kind, tmp_path):
    expected = run(load_huggingface(folder))
    tensors = load_file(folder / "model.safetensors")
    if kind == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    else:
        sharded(folder, tensors, ".safetensors" if kind == "shards" else ".bin")
    loaded = load_huggingface(folder)
    assert torch.equal(run(loaded), expected)
    new = {"encoder.layer.0.output.dense.bias": torch.ones(8), "embeddings.LayerNorm.weight": torch.zeros(8)}
    write_huggingface(folder, new, tmp_path / "back")
    assert sorted(f.name for f in (tmp_path / "back").iterdir()) == sorted(f.name for f in folder.iterdir())
    state = load_huggingface(tmp_path / "back").module.state_dict()
    assert all(torch.equal(state[name], new.get(name, tensors[name])) for name in tensors)
    same = [f.name for f in folder.iterdir() if f.read_bytes() == (tmp_path / "back" / f.name).read_bytes()]
    assert "config.json" in same and len(same) < len(list(folder.iterdir()))


def test_prefixes_and_old_names(folder):
    expected = run(load_huggingface(folder))
    tensors = load_file(folder / "model.safetensors")
    old = {f"bert.{n}".replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in tensors.items()}
    extra = {"bert.embeddings.position_ids": torch.arange(9)[None], "cls.seq_relationship.bias": torch.zeros(2)}
    save_file(old | extra, folder / "model.safetensors")
    loaded = load_huggingface(folder)
    assert torch.equal(run(loaded), expected)
    assert loaded.names["embeddings.LayerNorm.weight"] == "bert.embeddings.LayerNorm.gamma"


def test_heads_stand_in_for_a_missing_configuration(folder):
    expected = run(load_huggingface(folder))
    (folder / "config.json").unlink()
    assert torch.equal(run(load_huggingface(folder, heads=2)), expected)
    assert not torch.equal(run(load_huggingface(folder / "model.safetensors", heads=4)), expected)
    with pytest.raises(ConversionError, match="heads="):
        load_huggingface(folder)
    with pytest.raises(ConversionError, match="expected a divisor"):
        load_huggingface(folder, heads=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_stay(folder, dtype, tmp_path):
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    loaded = load_huggingface(folder)
    assert {t.dtype for t in loaded.module.state_dict().values()} == {dtype} and run(loaded).isfinite().all()
    wide = loaded.module.double()
    assert wide(*loaded.inputs)[0].dtype == torch.float64
    write_huggingface(folder, wide.state_dict(), tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_mixed_types_run_in_the_widest(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    mixed = {n: t if "LayerNorm" in n else t.bfloat16() for n, t in tensors.items()}
    save_file(mixed, folder / "model.safetensors")
    loaded = load_huggingface(folder)
    assert run(loaded).dtype == torch.float32
    write_huggingface(folder, loaded.module.state_dict(), tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def changed(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def tensors_changed(function):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(function(tensors), folder / "model.safetensors")

    return change


def index_to(file):
    def change(folder):
        shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))

    return change


BAD = {
    "other family": (changed(model_type="mamba"), "model_type is 'mamba'; expected one of bert"),
    "no family": (changed(model_type=None), "model_type"),
    "quantised": (changed(quantization_config={"bits": 4}), "quantised"),
    "too many layers": (changed(num_hidden_layers=10**6), "at most one per tensor"),
    "more layers": (changed(num_hidden_layers=2), r"asks for 'encoder\.layer\.1.*nothing"),
    "fewer layers": (lambda f: (changed(num_hidden_layers=1)(f), tensors_changed(two_layers)(f)), "does not use"),
    "huge": (changed(hidden_size=1 << 40), "hidden_size is .*expected a whole number"),
    "large": (changed(vocab_size=1 << 24, hidden_size=1 << 24), "asks for"),
    "negative": (changed(vocab_size=-1), "vocab_size"),
    "text": (changed(hidden_size="8"), "hidden_size"),
    "heads": (changed(num_attention_heads=3), "expected a divisor"),
    "activation": (changed(hidden_act="swoosh"), "expected one of gelu"),
    "positions": (changed(position_embedding_type="relative_key"), "absolute"),
    "eps": (changed(layer_norm_eps="small"), "expected a number"),
    "shape": (tensors_changed(lambda t: t | {"embeddings.LayerNorm.bias": torch.zeros(3)}), "asks for"),
    "integers": (tensors_changed(lambda t: {n: v.int() for n, v in t.items()}), "int32"),
    "cross attention": (tensors_changed(lambda t: t | {"encoder.layer.0.crossattention.x": torch.zeros(3)}), "not use"),
    "damaged JSON": (lambda f: (f / "config.json").write_text('{"a": '), "damaged JSON"),
    "nested JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), "damaged JSON"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "expected a mapping"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "none of model.safetensors"),
    "traversal": (index_to("../model.safetensors"), "expected one beside the index"),
    "absolute": (index_to("/etc/passwd"), "expected one beside the index"),
    "missing part": (index_to("part.safetensors"), "not there"),
    "no such folder": (shutil.rmtree, "no such folder"),
}


def two_layers(tensors):
    return tensors | {n.replace("layer.0", "layer.1"): t.clone() for n, t in tensors.items() if "layer.0" in n}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_one_clear_error(folder, case):
    change, message = BAD[case]
    change(folder)
    with pytest.raises(ConversionError, match=message):
        load_huggingface(folder)


def test_fuzzed_configurations(folder):
    good, rng, refused = (folder / "config.json").read_bytes(), random.Random(0), 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(b'0123456789",:{}[]-eE.tfn ')
        (folder / "config.json").write_bytes(data)
        try:
            load_huggingface(folder)
        except ConversionError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn"}, "default, linear, dynamic or llama3"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0.5}, "from 1"),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
          "original_max_position_embeddings": 8}, "less than"),
        ({"rope_theta": -1.0}, "positive"),
    ],
)  # fmt: skip
def test_bad_rotary_settings(rope, message):
    with pytest.raises(ConversionError, match=message):
        rotary_frequencies(Config({"rope_parameters": rope}, "config.json"), 8)


def test_nothing_half_written(folder, tmp_path):
    for tensors, message in (
        ({"new": torch.zeros(1)}, "not in"),
        ({"embeddings.LayerNorm.bias": torch.zeros(2)}, "shape"),
    ):
        with pytest.raises(ConversionError, match=message):
            write_huggingface(folder, tensors, tmp_path / "back")
    with pytest.raises(ConversionError, match="exists already"):
        write_huggingface(folder, {}, folder)
    assert [f.name for f in tmp_path.iterdir()] == ["m"]
