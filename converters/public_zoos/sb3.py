"""Policies of Stable-Baselines3: zip archives with ``policy.pth``, a state dict, and ``data``, JSON.

Read is the network that acts: the policy of PPO and A2C, the Q-network of DQN, the mean actor of SAC, the actor of TD3
and DDPG, behind no feature extractor or the library's own CNN (Mnih et al. 2015). Pickles inside ``data`` stay text.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from converters.archive import member
from converters.public_zoos.networks import Network, Networks, collect, is_number, require_finite
from converters.public_zoos.sirens import load_dict
from graphnfn.activations import Activation, as_activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError
from graphnfn.spec import NetSpec, SpatialOp

_ACTIVATIONS = {
    "ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "LeakyReLU": "leaky_relu", "GELU": "gelu", "SiLU": "silu",
    "Sigmoid": "sigmoid", "SELU": "selu", "Softplus": "softplus", "Mish": "mish", "Softsign": "softsign",
    "Identity": "identity", "Hardtanh": "hardtanh", "ReLU6": "relu6", "Hardswish": "hardswish",
}  # fmt: skip
"""Classes of PyTorch with their default arguments, which is how the library builds them."""
_CNN_LAYERS, _CNN_STRIDES = ("cnn.0", "cnn.2", "cnn.4", "linear.0"), (4, 2, 1)
_MOST_JSON = 1 << 26


class Form(NamedTuple):
    """Where the acting network lies in a state dict.

    Args:
        hidden: prefixes of its dense layers, in order; the numbers behind them count modules.
        last: prefix of its last layer, "" where that is the last of the hidden ones.
        features: prefix of its feature extractor.
        activation: the library's default.
        squashed: whether a tanh follows the last layer.
    """

    hidden: tuple[str, ...]
    last: str
    features: str
    activation: str
    squashed: bool = False


_FORMS: dict[str, Form] = {
    "action_net.weight": Form(
        ("mlp_extractor.shared_net.", "mlp_extractor.policy_net."), "action_net.", "features_extractor.", "tanh"
    ),
    "actor.mu.weight": Form(("actor.latent_pi.",), "actor.mu.", "actor.features_extractor.", "relu"),
    "actor.mu.0.weight": Form(("actor.mu.",), "", "actor.features_extractor.", "relu", squashed=True),
    "q_net.q_net.0.weight": Form(("q_net.q_net.",), "", "q_net.features_extractor.", "relu"),
}
"""A key that tells the kind of policy -> its form."""
_CNN = re.compile(r"cnn\.(0|2|4)\.(weight|bias)|linear\.0\.(weight|bias)")


@dataclass(frozen=True)
class SB3Reader:
    """Reads one zip, or all below a folder.

    Args:
        labels: a CSV with a column ``file`` (path relative to the folder) and whatever is known of the policies.

    Example:
        >>> SB3Reader().labels is None
        True
    """

    labels: Path | None = None

    def read(self, path: Path) -> Networks:
        """Read the acting networks in the order of their paths.

        Raises:
            ConversionError: a file is missing, damaged or unsafe, or a policy is of another kind.
        """
        files = [path] if path.is_file() else sorted(path.rglob("*.zip"))
        if not files:
            raise ConversionError(
                f"{path}: no zip archive there; give a policy that was saved by model.save, or a folder"
            )
        root = path.parent if path.is_file() else path
        found = collect(self._networks(files, root), {"layout": "sb3", "source": path.resolve().name})
        if self.labels is None:
            return found
        try:
            labels = pd.read_csv(self.labels).drop(columns="spec", errors="ignore")
            table = found.table.merge(labels, on="file", how="left", validate="many_to_one", suffixes=("_sb3", ""))
        except (OSError, ValueError, KeyError) as error:
            raise ConversionError(f"{self.labels}: expected a CSV with a column 'file' ({str(error)[:200]})") from error
        return Networks(found.stacks, table, found.about)

    def _networks(self, files: list[Path], root: Path) -> Iterator[Network]:
        for file in files:
            state, facts = read_archive(file)
            spec, tensors = acting_network(state, facts, file)
            yield Network(spec, tensors, {"file": file.relative_to(root).as_posix(), **_row(facts)})


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict and the JSON of an archive.

    Raises:
        ConversionError: it is damaged, unsafe, or no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            facts = json.loads(member(archive, "data", _MOST_JSON))
            copy = Path(folder) / "policy.pth"
            copy.write_bytes(member(archive, "policy.pth"))
            state = load_dict(copy)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes end in any of zipfile's and json's errors
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConversionError(f"{path}: damaged, or no archive of Stable-Baselines3 ({first[:200]})") from error
    if not isinstance(facts, dict):
        raise ConversionError(f"{path}: 'data' holds a {type(facts).__name__}; expected a JSON object")
    return state, facts


def acting_network(
    state: Mapping[str, Any], facts: Mapping[str, Any], where: Path
) -> tuple[NetSpec, dict[str, Tensor]]:
    """The architecture and the tensors of the network that acts.

    Raises:
        ConversionError: the policy is of another kind, or its layers do not chain.
    """
    form = next((form for key, form in _FORMS.items() if key in state), None)
    foreign = [k for k in state if form is None or _foreign(k, form)]
    if form is None or foreign:
        raise ConversionError(
            f"{where}: has {[k[:60] for k in foreign[:4]]}; supported are MLP and CNN policies of PPO, A2C, DQN, SAC, "
            "TD3 and DDPG"
        )
    chain, tensors, act = _Chain(state, where), {}, as_activation(_activation(facts, form, where))
    shape = _shape(facts)
    features = [f"{form.features}{name}" for name in _CNN_LAYERS if f"{form.features}{name}.weight" in state]
    hidden = [name for prefix in form.hidden for name in _numbered(state, prefix)]
    names = [*features, *hidden, *([form.last.rstrip(".")] if form.last else [])]
    builder = ChainBuilder(*_inputs(chain.weight(names[0]), shape))
    for i, name in enumerate(names):
        weight = chain.weight(name)
        bias = f"{name}.bias" if f"{name}.bias" in state else None
        tensors |= {f"{name}.weight": weight} | ({bias: chain.tensor(bias, 1)} if bias else {})
        if weight.dim() == 4:
            stride = (_CNN_STRIDES[i],) * 2
            builder.conv(f"{name}.weight", weight.shape, bias=bias, stride=stride)
            shape = tuple((n - k) // stride[0] + 1 for n, k in zip(shape[-2:], weight.shape[2:], strict=False))
        else:
            builder.linear(f"{name}.weight", weight.shape, bias=bias)
        if i < len(names) - 1:
            builder.activation(Activation("relu") if name in features else act)
        elif form.squashed:
            builder.activation(Activation("tanh"))
        if weight.dim() == 4 and not names[i + 1].endswith(("cnn.2", "cnn.4")):
            into = chain.weight(names[i + 1]).shape[1]
            if shape and into != weight.shape[0] * math.prod(shape):
                raise ConversionError(
                    f"{where}: {names[i + 1]!r} takes {into} inputs; its images leave {shape} positions"
                )
            builder.spatial(SpatialOp("flatten", shape))
    return builder.build(), tensors


class _Chain:
    """Tensors of a state dict, checked."""

    def __init__(self, state: Mapping[str, Any], where: Path) -> None:
        self._state, self._where = state, where

    def weight(self, name: str) -> Tensor:
        return self.tensor(f"{name}.weight", 4 if ".cnn." in name else 2)

    def tensor(self, name: str, rank: int) -> Tensor:
        value = self._state.get(name)
        if not isinstance(value, Tensor) or value.dim() != rank or 0 in value.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
            raise ConversionError(f"{self._where}: {name!r} has shape {got}; expected {rank} axes")
        require_finite(f"{self._where}: {name!r}", value)
        return value


def _inputs(first: Tensor, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...] | None]:
    """Input neurons and the shape of one input, which a dense layer takes flattened."""
    if first.dim() == 4:
        return first.shape[1], shape if len(shape) == 3 else None
    return first.shape[1], (first.shape[1],)


def _foreign(key: str, form: Form) -> bool:
    """Whether a tensor shows that something else than the library's own layers comes first."""
    return key.startswith("lstm_") or (
        key.startswith(form.features) and not _CNN.fullmatch(key.removeprefix(form.features))
    )


def _numbered(state: Mapping[str, Any], prefix: str) -> list[str]:
    """Layers ``<prefix><number>`` in the order of their numbers."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.weight")
    numbers = sorted(int(m[1]) for key in state if (m := pattern.fullmatch(key)))
    return [f"{prefix}{n}" for n in numbers]


def _activation(facts: Mapping[str, Any], form: Form, where: Path) -> str:
    """From ``policy_kwargs``, where the class stands as text such as ``<class 'torch.nn.modules.activation.ReLU'>``."""
    kwargs = facts.get("policy_kwargs")
    text = kwargs.get("activation_fn") if isinstance(kwargs, Mapping) else None
    if text is None:
        return form.activation
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.\w+\.(\w+)'>", str(text))
    if found is None or found[1] not in _ACTIVATIONS:
        raise ConversionError(f"{where}: activation {str(text)[:80]!r}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[found[1]]


def _shape(facts: Mapping[str, Any]) -> tuple[int, ...]:
    space = facts.get("observation_space")
    shape = space.get("_shape") if isinstance(space, Mapping) else None
    right = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 16 for n in shape)
    return tuple(shape) if right and shape else ()


def _row(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers among the facts, and the algorithm."""
    policy = facts.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, Mapping) else ""
    found = re.fullmatch(r"stable_baselines3\.(\w+)\.policies", module)
    algorithm = found[1] if found else ""
    algorithm = ("ppo" if "clip_range" in facts else "a2c") if algorithm == "common" else algorithm
    plain = {k: v for k, v in facts.items() if is_number(v) and not k.startswith("_")}
    return {"algorithm": algorithm, **{k: float(v) for k, v in plain.items()}}
