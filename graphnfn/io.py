"""Neural graphs as files: one safetensors file with the stacked parameters, specs in its header."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphnfn.errors import GraphNFNError
from graphnfn.graph import NeuralGraph
from graphnfn.traced import decode_spec
from graphnfn.traced_stack import TracedStack, pack

_MARK = "graphnfn"
_EXTRA, _INPUT = "+extra/", "+input/"


def save(graph: NeuralGraph, path: str | Path) -> None:
    """Write a graph or a batch; the file appears whole or not at all.

    Args:
        graph: what to write.
        path: usually with the suffix .safetensors.

    Raises:
        GraphNFNError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise GraphNFNError(f"{path}: the folder {path.parent} does not exist; make it first")
    tensors, specs, members = {}, [], []
    for s, (stack, places) in enumerate(zip(graph.stacks(), graph.members(), strict=True)):
        parts = {f"{s}/{name}": value for name, value in stack.unpack().items()}
        if isinstance(stack, TracedStack):
            parts |= {f"{s}{_EXTRA}{name}": value for name, value in stack.extra.items()}
            parts |= {f"{s}{_INPUT}{k}": value for k, value in enumerate(stack.inputs)}
        tensors.update({name: value.detach().cpu().clone().contiguous() for name, value in parts.items()})
        specs.append(stack.spec.to_json())
        members.append(places.tolist())
    header = {_MARK: "1", "specs": json.dumps(specs), "members": json.dumps(members)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=header)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def is_graph_file(path: Path) -> bool:
    """Whether :func:`save` wrote this file."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            return _MARK in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load(path: str | Path) -> NeuralGraph:
    """Read what :func:`save` wrote.

    Raises:
        GraphNFNError: the file is missing, damaged or something else.

    Example:
        >>> import tempfile
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> graph = NeuralGraph.build(spec, {k: torch.ones(s) for k, s in spec.params.items()})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(graph, Path(folder) / "graph.safetensors")
        ...     load(Path(folder) / "graph.safetensors").spec == spec
        True
    """
    path = Path(path)
    if not path.is_file():
        raise GraphNFNError(f"{path}: no such file; expected a graph that graphnfn.save wrote")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if _MARK not in header:
                raise GraphNFNError(f"{path}: no graphnfn graph; convert checkpoints with converters.convert")
            specs = [decode_spec(text) for text in json.loads(header["specs"])]
            members = [torch.tensor(places) for places in json.loads(header["members"])]
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise GraphNFNError(f"{path}: damaged graph file ({error}); write it again") from error
    stacks = []
    for s, spec in enumerate(specs):
        mine = {name: tensors[f"{s}/{name}"] for name in spec.params if f"{s}/{name}" in tensors}
        extra = {n.removeprefix(f"{s}{_EXTRA}"): t for n, t in tensors.items() if n.startswith(f"{s}{_EXTRA}")}
        inputs = sorted((n for n in tensors if n.startswith(f"{s}{_INPUT}")), key=lambda n: int(n.rpartition("/")[2]))
        stacks.append(pack(spec, mine, extra, tuple(tensors[n] for n in inputs)))
    return NeuralGraph.from_stacks(stacks, members)
