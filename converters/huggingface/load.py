"""Build the architecture that a configuration tells, and put the weights in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.huggingface import bert, distilbert, gpt2, llama, roberta, vit
from converters.huggingface.config import Config, read_json
from converters.huggingface.family import TOKENS, Family
from converters.huggingface.files import read_weights, weight_files
from converters.loaded import Loaded
from graphnfn.errors import ConversionError

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "camembert": roberta.FAMILY,
    "distilbert": distilbert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "llama": llama.FAMILY,
    "mistral": llama.FAMILY,
    "qwen2": llama.FAMILY,
    "qwen3": llama.FAMILY,
    "roberta": roberta.FAMILY,
    "vit": vit.FAMILY,
    "xlm-roberta": roberta.FAMILY,
}
"""``model_type`` -> family."""
_OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
"""Names that converted TensorFlow checkpoints have."""


def load_huggingface(path: str | Path, *, heads: int | None = None) -> Loaded:
    """A network as Hugging Face stores it; its weights keep the files' names, also those that are tied.

    Args:
        path: a folder with ``config.json``, or the weights in one: safetensors or ``pytorch_model.bin``, whole or with
            an index.
        heads: attention heads of a BERT whose ``config.json`` is missing: nothing else tells them.

    Raises:
        ConversionError: the architecture is not supported, or files are missing, damaged, or contradict each other.
    """
    path = Path(path)
    files = weight_files(path)
    tensors = read_weights(files)
    config = _config(files[0].parent / "config.json", tensors, heads)
    kind = config.text("model_type", "")
    if kind not in FAMILIES:
        raise config.fail("model_type", kind, f"one of {', '.join(FAMILIES)}")
    if config.values.get("quantization_config") is not None:
        raise ConversionError(f"{config.where}: the weights are quantised; dequantise them and save them again")
    family = FAMILIES[kind]
    module, names = _filled(family, config, tensors)
    return Loaded(module, (_images(config) if family.images else _tokens(config),), names)


def _config(path: Path, tensors: Mapping[str, Tensor], heads: int | None) -> Config:
    if path.is_file():
        values = read_json(path)
        if heads is not None and heads != values.get("num_attention_heads", heads):
            raise ConversionError(f"{path}: has {values['num_attention_heads']} heads, not {heads}: drop heads=")
    else:
        values = _inferred(path, tensors, heads)
    config = Config(values, str(path))
    for name in ("num_hidden_layers", "n_layer", "n_layers"):
        if name in values and config.size(name) > len(tensors):
            raise config.fail(name, values[name], f"at most one per tensor, and there are {len(tensors)}")
    return config


def _inferred(path: Path, tensors: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """The configuration of a BERT, from the shapes of its tensors."""
    shapes = {name.removeprefix("bert."): tuple(t.shape) for name, t in tensors.items()}
    parts = ("word", "position", "token_type")
    tables = [shapes.get(f"embeddings.{part}_embeddings.weight", ()) for part in parts]
    inner = shapes.get("encoder.layer.0.intermediate.dense.weight", ())
    if not all(len(shape) == 2 for shape in (*tables, inner)) or "encoder.layer.0.attention.self.query.weight" not in (
        shapes
    ):
        raise ConversionError(f"{path}: no such file, and the names of the tensors are not those of a BERT; give it")
    if heads is None:
        raise ConversionError(
            f"{path}: no such file; this is a BERT, but its heads are not told: give the file, or heads="
        )
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layer.")}
    sizes = dict(zip(("vocab_size", "max_position_embeddings", "type_vocab_size"), (t[0] for t in tables), strict=True))
    width = {"hidden_size": tables[0][1], "intermediate_size": inner[0]}
    return {"model_type": "bert", "num_attention_heads": heads, "num_hidden_layers": len(layers), **sizes, **width}


def _filled(family: Family, config: Config, tensors: dict[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    """The module with the weights, and the name in the files of every tensor of its state dict."""
    copies = tied_copies(family, tensors)
    own = {name: tensor for name, tensor in tensors.items() if name not in copies}
    with torch.device("meta"):
        module = family.build(config, own)
    module = module.eval().requires_grad_(False)
    wanted = module.state_dict()
    names = {name: _source_name(family, name, own) for name in wanted}
    for name, value in wanted.items():
        found = own.get(names[name])
        if found is None or found.shape != value.shape or not found.is_floating_point():
            got = "nothing" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            raise ConversionError(
                f"{config.where}: asks for {name!r} of shape {tuple(value.shape)}; the files have {got}"
            )
    used = set(names.values())
    for name in own:
        inside = name.removeprefix(family.base).startswith(family.blocks)
        if inside and name not in used and not family.unused.search(name):
            raise ConversionError(f"{config.where}: the files have {name!r} too, which this architecture does not use")
    dtype = _widest({own[name].dtype for name in used})
    module.load_state_dict({name: own[names[name]].to(dtype) for name in wanted}, assign=True)
    return module.requires_grad_(False), names


def _source_name(family: Family, name: str, tensors: Mapping[str, Tensor]) -> str:
    """The file's name of a tensor: with or without the prefix, new or old; the name itself where there is none."""
    for spelled in (name, re.sub(r"LayerNorm\.\w+$", lambda found: _OLD[found[0]], name)):
        for candidate in (spelled, spelled.removeprefix(family.base), family.base + spelled):
            if candidate in tensors:
                return candidate
    return name


def _widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """The type that holds all others: a module computes in one."""
    wide = dtypes.pop()
    for dtype in dtypes:
        wide = torch.promote_types(wide, dtype)
    return wide


def tied_copies(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Heads that are stored although they equal the embedding: name of the head -> name of the embedding."""
    found = {}
    for head, embedding in family.tied:
        source = next((n for n in (family.base + embedding, embedding) if n in tensors), None)
        if source is not None and head in tensors and torch.equal(tensors[head], tensors[source]):
            found[head] = source
    return found


def _tokens(config: Config) -> Tensor:
    """Two sequences of different tokens."""
    for name in ("max_position_embeddings", "n_positions", "sliding_window"):
        if config.values.get(name) is not None and config.size(name) < TOKENS:
            raise config.fail(name, config.values[name], f"at least {TOKENS}")
    return (7919 * (1 + torch.arange(2 * TOKENS)) % config.size("vocab_size")).view(2, TOKENS)


def _images(config: Config) -> Tensor:
    side = config.size("image_size", 224)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, config.size("num_channels", 3), side, side, generator=generator)
