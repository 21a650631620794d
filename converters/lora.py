"""Low-rank adapters: pairs of maps whose product is what they add to a layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.config import Config, read_json
from converters.huggingface.files import read_weights, weight_files
from converters.huggingface.write import write_files
from converters.loaded import Loaded
from graphnfn.errors import ConversionError

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_FIRST = re.compile(
    r"(?P<start>^|.*[._])lora(?P<kind>_A|_embedding_A|_down|\.down)(?P<end>(\.(?!bias$)\w+)?(\.weight)?)$"
)
"""PEFT (with and without the adapter's name), loralib, kohya and diffusers."""
_LAST = re.compile(r"lora(_(embedding_)?B|[._]up)(\.(?!bias$)\w+)?(\.weight)?$")
_SECOND = {"_A": "_B", "_embedding_A": "_embedding_B", "_down": "_up", ".down": ".up"}
_PLAIN = re.compile(r"\^?[\w.-]+")
_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


@dataclass(frozen=True)
class PairNames:
    """The tensors of one adapted layer.

    Args:
        layer: its name.
        first: A, [r, in].
        second: B, [out, r].
        bias: of B, or None.
        alpha: a tensor with the scaling's numerator, or None.
        embedding: whether the layer is an embedding.
    """

    layer: str
    first: str
    second: str
    bias: str | None
    alpha: str | None
    embedding: bool


def adapter_pairs(names: Iterable[str]) -> list[PairNames]:
    """The pairs among the names of tensors; empty where they are no adapter's.

    Raises:
        ConversionError: half of a pair is missing.

    Example:
        >>> [pair.layer for pair in adapter_pairs(["q.lora_A.weight", "q.lora_B.weight"])]
        ['q']
    """
    known = dict.fromkeys(names)
    pairs = []
    for name in known:
        found = _FIRST.match(name)
        if found is None:
            continue
        layer = found["start"].rstrip("._")
        second = f"{found['start']}lora{_SECOND[found['kind']]}{found['end']}"
        if second not in known:
            raise ConversionError(f"{name!r} has no partner {second!r}; save the whole adapter")
        bias, alpha = second.removesuffix(".weight") + ".bias", f"{layer}.alpha"
        kept = (bias if bias in known else None, alpha if alpha in known else None)
        pairs.append(PairNames(layer, name, second, *kept, "embedding" in found["kind"]))
    seconds = {pair.second for pair in pairs}
    for name in known:
        if _LAST.search(name) and name not in seconds:
            raise ConversionError(f"{name!r} has no partner; save the whole adapter")
        if re.search(r"(lora_mid|hada_|lokr_)", name):
            raise ConversionError(f"{name!r} is no part of a product of two matrices; supported: LoRA, rsLoRA, DoRA")
    return pairs


class Pair(nn.Module):
    """``x -> (B A x + b) scaling``.

    Args:
        first: A, [r, in], for a convolution [r, in, kernel...].
        second: B, [out, r], for a convolution [out, r, 1...].
        bias: b, or None.
        scaling: a number.
        embedding: x are rows of A^T to look up.
    """

    def __init__(self, first: Tensor, second: Tensor, bias: Tensor | None, scaling: float, embedding: bool) -> None:
        super().__init__()
        dtype = torch.promote_types(first.dtype, second.dtype)
        self.first = nn.Parameter(first.to(dtype), requires_grad=False)
        self.second = nn.Parameter(second.to(dtype), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
        self.scaling, self.embedding = scaling, embedding

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding:
            return F.linear(F.embedding(x, self.first.t()), self.second, self.bias) * self.scaling
        conv = _CONV.get(self.first.dim())
        if conv is None:
            return F.linear(F.linear(x, self.first), self.second, self.bias) * self.scaling
        return conv(conv(x, self.first), self.second, self.bias) * self.scaling

    def example(self, generator: torch.Generator) -> Tensor:
        """An input: a batch of two, for a convolution as large as its kernel."""
        if self.embedding:
            return 7919 * torch.arange(1, 3) % self.first.shape[1]
        return torch.randn(2, *self.first.shape[1:], generator=generator).to(self.first.dtype)


class Adapter(nn.Module):
    """All pairs, each on an input of its own: what the adapter adds to the layers of its network.

    Args:
        pairs: name of A, with slashes for dots -> pair.
    """

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict(pairs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(pair(x) for pair, x in zip(self.pairs.values(), inputs, strict=True))


def load_lora(source: str | Path | Mapping[str, Tensor]) -> Loaded:
    """An adapter as a network of pairs B A: any G in GL(r) may go between, ``B A = (B G^-1)(G A)``.

    The factor is lora_alpha / r (Hu et al., arXiv 2106.09685, section 4.1) or lora_alpha / sqrt(r) (rsLoRA, arXiv
    2312.03732), with the configuration's patterns; without a configuration alpha / r where there is a tensor alpha,
    else 1.  Everything else stays in the file untouched: fully trained layers, and DoRA's magnitudes (arXiv
    2402.09353, eq. 5), which only depend on B A.

    Args:
        source: a PEFT folder, its weights, another file with such pairs, or the named tensors.

    Raises:
        ConversionError: there are no pairs, they do not fit together, or the adapter is of another kind.

    Example:
        >>> tensors = {"q.lora_A.weight": torch.randn(2, 8), "q.lora_B.weight": torch.randn(4, 2)}
        >>> load_lora(tensors).names["pairs.q/lora_A/weight.first"]
        'q.lora_A.weight'
    """
    config = None
    if isinstance(source, Mapping):
        tensors, where = dict(source), "the adapter"
    else:
        files = weight_files(Path(source), ADAPTERS)
        tensors, where = read_weights(files), str(source)
        beside = files[0].parent / "adapter_config.json"
        config = _config(beside) if beside.is_file() else None
    found = adapter_pairs(tensors)
    if not found:
        raise ConversionError(f"{where}: no pairs such as q.lora_A.weight, q.lora_B.weight; expected a LoRA adapter")
    pairs = {names.first.replace(".", "/"): _pair(tensors, names, config) for names in found}
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(pair.example(generator) for pair in pairs.values())
    sources = {}
    for key, names in zip(pairs, found, strict=True):
        held = {"first": names.first, "second": names.second, "bias": names.bias}
        sources |= {f"pairs.{key}.{part}": name for part, name in held.items() if name is not None}
    return Loaded(Adapter(pairs).eval(), inputs, sources)


def _config(path: Path) -> Config:
    config = Config(read_json(path), str(path))
    kind = config.text("peft_type", "LORA")
    if kind != "LORA":
        raise config.fail("peft_type", kind, "LORA")
    return config


def _pair(tensors: Mapping[str, Tensor], names: PairNames, config: Config | None) -> Pair:
    first, second = tensors[names.first], tensors[names.second]
    bias = None if names.bias is None else tensors[names.bias]
    shapes = tuple(first.shape), tuple(second.shape)
    if not _chain(*shapes):
        raise ConversionError(f"{names.layer!r} has A of shape {shapes[0]} and B of shape {shapes[1]}; expected "
                              "[r, in, ...] and [out, r, 1...]")  # fmt: skip
    if not (first.is_floating_point() and second.is_floating_point()):
        raise ConversionError(f"{names.layer!r} has {first.dtype} and {second.dtype}; expected floating point weights")
    if bias is not None and bias.shape != second.shape[:1]:
        raise ConversionError(f"{names.bias!r} has shape {tuple(bias.shape)}; expected {(second.shape[0],)}")
    rank = first.shape[0]
    if config is not None:
        scaling = _scaling(config, names.layer, rank)
    elif names.alpha is not None and tensors[names.alpha].numel() == 1:
        scaling = float(tensors[names.alpha]) / rank
    else:
        scaling = 1.0
    return Pair(first, second, bias, scaling, names.embedding)


def _chain(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether [r, in, kernel...] is followed by [out, r, 1...]."""
    dims = len(first) == len(second) and len(second) in (2, *_CONV)
    return dims and first[0] == second[1] and 0 not in (*first, *second) and set(second[2:]) <= {1}


def _scaling(config: Config, layer: str, rank: int) -> float:
    """What the configuration says for a layer, whose name ends with a pattern's or is like any other."""
    ranks, alphas = config.part("rank_pattern"), config.part("alpha_pattern")
    told = ranks.size(_pattern(ranks, layer), config.size("r", 8))
    if told != rank:
        raise config.fail("r", told, f"{rank}, the rank that {layer!r} has")
    alpha = alphas.number(_pattern(alphas, layer), config.number("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.flag("use_rslora", False) else rank)


def _pattern(patterns: Config, layer: str) -> str:
    """The first of the patterns that the name of a layer ends with; they come from the file, so none is run."""
    layer = layer.removeprefix("base_model.model.")
    for key in patterns.values:
        if not _PLAIN.fullmatch(key):
            raise ConversionError(f"{patterns.where}: {key[:60]!r} is a regular expression; expected names of layers")
        if layer == key.removeprefix("^") or (key[0] != "^" and layer.endswith(f".{key}")):
            return key
    return layer


def write_lora(like_path: str | Path, tensors: Mapping[str, Tensor], target: str | Path) -> None:
    """A copy of an adapter, folder or file, in which some tensors have other values; every other byte stays.

    Args:
        like_path: what is copied.
        tensors: name in the file -> values of the same shape.
        target: a new folder, or a file; it appears whole or not at all.

    Raises:
        ConversionError: there is no tensor of such a name and shape, or its type cannot hold the values.
    """
    source = Path(like_path)
    write_files(source, weight_files(source, ADAPTERS), tensors, Path(target))
