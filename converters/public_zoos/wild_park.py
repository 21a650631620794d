"""CNN Wild Park (Kofinas et al. 2024, arXiv 2403.12143, appendix): CNNs of all depths, widths, kernels and activations.

``cnn_park_splits.json`` names files ``.../<trial>/checkpoint_<epoch>/checkpoint.pt`` with their scores and steps. A
checkpoint has ``model``, a state dict ``layers.<i>.*, fc.*``, and ``config`` with channels, kernel_size, stride,
padding, activation and residual. Layer i with residual r >= 0 computes act(conv(x) + h_r), on the channels that both
have. A sum has no parameters; here it is a 1x1 convolution with fixed ones on its diagonal, as in the authors' graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.public_zoos.inert import load_inert, plain
from converters.public_zoos.listed import Entry, listed
from converters.public_zoos.networks import (
    Network,
    Networks,
    collect,
    is_number,
    require_finite,
    require_folder,
    whole_number,
)
from graphnfn.activations import TABLE, Activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError
from graphnfn.spec import Block, ConvFacts, NetSpec, SpatialOp

_INPUT = (32, 32)
_MOST_LAYERS = 64
_PER_LAYER = ("kernel_size", "stride", "padding", "residual")


@dataclass(frozen=True)
class Plan:
    """The architecture in a checkpoint's configuration; one entry per convolution, one more for ``channels``."""

    channels: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    residual: tuple[int, ...]
    activation: tuple[str, ...]
    classes: int


@dataclass(frozen=True)
class WildParkReader:
    """Reads the folder with the trials.

    Args:
        splits: the JSON; None takes ``cnn_park_splits.json`` in the folder, and where there is none every
            ``checkpoint.pt`` below it, with its own score and no split.
        steps: epochs to take; none given: all, as in the published experiments.

    Example:
        >>> WildParkReader(steps=(200,)).steps
        (200,)
    """

    splits: Path | None = None
    steps: tuple[int, ...] = ()

    def read(self, path: Path) -> Networks:
        """Read all listed networks, in the order of the list.

        Raises:
            ConversionError: a file is missing, damaged or unsafe, or its configuration does not fit its tensors.
        """
        require_folder(path)
        own = path / "cnn_park_splits.json"
        splits = self.splits or (own if own.is_file() else None)
        found = (Entry(file, "", {}) for file in sorted(path.rglob("checkpoint.pt")))
        entries = listed(splits, path, ("score", "step")) if splits else found
        networks = (self._network(path, entry) for entry in entries)
        about = {"layout": "cnn-wild-park", "source": path.resolve().name, "constants": "skip.*"}
        return collect((n for n in networks if not self.steps or n.row["step"] in self.steps), about)

    def _network(self, root: Path, entry: Entry) -> Network:
        content = load_inert(entry.file)
        if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
            raise ConversionError(f"{entry.file}: expected a mapping with the entries 'model' and 'config'")
        plan = plan_of(plain(content.get("config")), entry.file)
        spec = wild_spec(plan)
        tensors = {name: _tensor(content["model"], name, shape, entry.file) for name, shape in _own(spec).items()}
        for name in spec.params.keys() - tensors.keys():
            tensors[name] = torch.eye(*spec.params[name][:2])[..., None, None]
        results = content.get("last_result")
        score = entry.facts.get("score", results.get("test/acc") if isinstance(results, Mapping) else None)
        if score is None or isinstance(score, bool) or not is_number(score):
            raise ConversionError(f"{entry.file}: score {score!r:.40}; expected an accuracy in the list or the file")
        step = entry.facts.get("step", content.get("iteration"))
        row = {
            "test_accuracy": float(score), "step": whole_number(step, f"the step of {entry.file}"),
            "trial": entry.file.parent.parent.name, "layers": len(plan.activation),
            "activations": ",".join(plan.activation), "residual": ",".join(map(str, plan.residual)),
            "file": entry.file.relative_to(root).as_posix(),
        }  # fmt: skip
        return Network(spec, tensors, {**row, "split": entry.split} if entry.split else row)


def plan_of(config: Any, where: Path) -> Plan:
    """A configuration, checked.

    Raises:
        ConversionError: an entry is missing or contradicts the others.
    """
    if not isinstance(config, Mapping):
        raise ConversionError(f"{where}: no 'config' in the checkpoint, which tells activations and residuals")
    numbers = {name: _numbers(config.get(name), name, where) for name in ("channels", *_PER_LAYER)}
    layers, acts = len(numbers["channels"]) - 1, config.get("activation")
    right = isinstance(acts, Sequence) and len(acts) == layers and 0 < layers <= _MOST_LAYERS
    if not right or any(len(numbers[name]) != layers for name in _PER_LAYER):
        sizes = {name: len(values) for name, values in numbers.items()}
        raise ConversionError(f"{where}: 'config' has entries of lengths {sizes} and activations {str(acts)[:100]}")
    names = tuple("identity" if act == "none" else str(act) for act in acts or ())
    unknown = [name for name in names if name not in TABLE]
    if unknown:
        raise ConversionError(f"{where}: activation {unknown[0][:40]!r}; known: none, {', '.join(TABLE)}")
    positive = all(n > 0 for name in ("channels", "kernel_size", "stride") for n in numbers[name])
    earlier = all(-1 <= r < max(i, 1) - 1 or r == -1 for i, r in enumerate(numbers["residual"]))
    same = all(n == 1 for n in numbers["stride"]) and all(
        k % 2 and p == k // 2 for k, p in zip(numbers["kernel_size"], numbers["padding"], strict=True)
    )
    if not positive or not earlier or (max(numbers["residual"]) >= 0 and not same):
        raise ConversionError(f"{where}: 'config' has {numbers}; expected residuals from earlier maps of the same size")
    return Plan(**numbers, activation=names, classes=whole_number(config.get("n_classes", 10), "n_classes"))


@lru_cache(maxsize=65536)
def wild_spec(plan: Plan) -> NetSpec:
    """Convolutions with their activations, residual sums as ``skip.<layer>.weight``, global average pooling, ``fc``.

    Example:
        >>> plan = Plan((3, 4, 8, 4), (3, 3, 5), (1,) * 3, (1, 1, 2), (-1, -1, 0), ("relu", "tanh", "gelu"), 10)
        >>> [(b.param, b.src, b.dst) for b in wild_spec(plan).blocks][-1]
        ('skip.2.weight', 'layers.0', 'layers.2')
    """
    chain = ChainBuilder(plan.channels[0], (plan.channels[0], *_INPUT))
    for i, (into, out) in enumerate(zip(plan.channels, plan.channels[1:], strict=False)):
        k, name = plan.kernel_size[i], f"layers.{i}"
        stride, padding = (plan.stride[i],) * 2, (plan.padding[i],) * 2
        chain.conv(f"{name}.weight", (out, into, k, k), bias=f"{name}.bias", stride=stride, padding=padding)
        chain.activation(Activation(plan.activation[i]))
    chain.spatial(SpatialOp("global_avg_pool"))
    chain.linear("fc.weight", (plan.classes, plan.channels[-1]), bias="fc.bias")
    spec = chain.build()
    one, zero = (1, 1), (0, 0)
    skips = []
    for i, r in enumerate(plan.residual):
        if r >= 0:
            shape = (plan.channels[i + 1], plan.channels[r + 1], 1, 1)
            skips.append(
                Block(
                    param=f"skip.{i}.weight", src=f"layers.{r}", dst=f"layers.{i}", shape=shape, view=shape,
                    dims=(0, 1, 2, 3), kind="conv", conv=ConvFacts(one, zero, one),
                )
            )  # fmt: skip
    return replace(spec, blocks=(*spec.blocks, *skips))


def _own(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in spec.params.items() if not name.startswith("skip.")}


def _tensor(model: Mapping[str, Any], name: str, shape: tuple[int, ...], where: Path) -> Tensor:
    value = model.get(name)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
        raise ConversionError(f"{where}: {name!r} has shape {got}; its configuration says {shape}")
    require_finite(f"{where}: {name!r}", value)
    return value


def _numbers(value: Any, name: str, where: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and -1 <= n < 1 << 16 for n in value) or not value:
        raise ConversionError(f"{where}: {name!r} in 'config' is {str(value)[:60]}; expected a list of whole numbers")
    return tuple(value)
