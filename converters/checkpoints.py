"""Checkpoints of tensors: read with what their names and storages tell, written back bit for bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from converters import safefile, scriptfile, torchfile
from converters.archive import replacing
from converters.places import Place, cast
from converters.statedicts import state_dict_of
from graphnfn.errors import ConversionError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".jit")
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""What torch.compile, FSDP and activation checkpointing put into names, at any depth."""
_PREFIXES = ("module.", "model.")
"""What DDP, and what Lightning modules by custom, put before all names."""


@dataclass(frozen=True)
class Checkpoint:
    """The state dict in a file.

    Args:
        tensors: name in the file -> tensor, in the file's order; names of one tensor share storage.
        names: name without the marks of DDP, Lightning and torch.compile -> name in the file.
        aliases: further name of a tensor -> its first name in the file.
    """

    tensors: dict[str, Tensor]
    names: Mapping[str, str]
    aliases: Mapping[str, str]

    def named(self, wanted: Iterable[str]) -> dict[str, str]:
        """The file's names of a module's tensors: its own, without the marks of wrappers, or behind one prefix.

        Raises:
            ConversionError: a tensor is missing.
        """
        wanted = list(wanted)
        own = {name: name for name in self.tensors}
        own |= {name: kept for name, kept in self.aliases.items() if name not in own}
        for known in (own, self.names):
            for prefix in ("", *_prefixes(wanted, known)):
                if all(prefix + name in known for name in wanted):
                    return {name: known[prefix + name] for name in wanted}
        missing = [name for name in wanted if not any(n.endswith(name) for n in (*own, *self.names))]
        raise ConversionError(
            f"the checkpoint has no {', '.join(map(repr, (missing or wanted)[:5]))}; it has "
            f"{', '.join(map(repr, list(self.tensors)[:5]))}, ...: give the module that it was saved from"
        )


def _prefixes(wanted: list[str], known: Mapping[str, str]) -> list[str]:
    """What stands before the first wanted name, shortest first."""
    found = {name.removesuffix(wanted[0]) for name in known if wanted and name.endswith(wanted[0])}
    return sorted((prefix for prefix in found if prefix.endswith(".")), key=len)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names without the marks of wrappers -> the names; as they are where that would make two equal.

    Example:
        >>> plain_names(["module._orig_mod.0.weight", "module._orig_mod.0.bias"])
        {'0.weight': 'module._orig_mod.0.weight', '0.bias': 'module._orig_mod.0.bias'}
    """
    names = list(names)
    plain = [_WRAPPERS.sub("", name).removeprefix(".") for name in names]
    while prefix := next((p for p in _PREFIXES if plain and all(n.startswith(p) for n in plain)), None):
        plain = [name.removeprefix(prefix) for name in plain]
    return dict(zip(plain if len(set(plain)) == len(plain) else names, names, strict=True))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The state dict in a safetensors file or in one that ``torch.save`` wrote; nothing in it is executed.

    Args:
        path: .safetensors, .pt, .pth, .ckpt or .bin; the state dict may lie beside an optimizer's and others.

    Raises:
        ConversionError: the file is missing, damaged, unsafe, too large, or holds no state dict.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.weight": torch.ones(2)}, "epoch": 3}, f"{folder}/a.ckpt")
        ...     found = read_checkpoint(f"{folder}/a.ckpt")
        >>> dict(found.names), found.tensors
        ({'weight': 'module.weight'}, {'module.weight': tensor([1., 1.])})
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        tensors, aliases = safefile.read(path), safefile.shared(path)
        return Checkpoint(tensors, plain_names(tensors), aliases)
    if scriptfile.is_script(path):
        tensors, places = scriptfile.read(path)
        first: dict[Place, str] = {}
        aliases = {name: first[p] for name, p in places.items() if first.setdefault(p, name) != name}
        return Checkpoint(tensors, plain_names(tensors), aliases)
    if torchfile.is_zip(path):
        for name, place in _index(path).items():
            if not place.fits:
                raise ConversionError(
                    f"{path}: {name!r} declares the shape {place.shape}, and {place.length} bytes; save it again"
                )
    tensors = state_dict_of(torchfile.load(path), str(path))
    known: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if _plain(tensor) else (name,)
        if tensor.numel() and known.setdefault(key, name) != name:
            aliases[name] = known[key]
    return Checkpoint(tensors, plain_names(tensors), aliases)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; expected a checkpoint ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: unknown kind of file {path.suffix!r}; supported: {', '.join(SUFFIXES)}")
    return path


def _plain(tensor: Tensor) -> bool:
    """Whether it has values in a storage of its own."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def _index(path: Path) -> dict[str, Place]:
    """Where the tensors are; sparse and quantised ones have no place of their own."""
    if path.suffix == ".safetensors":
        return safefile.index(path)
    if scriptfile.is_script(path):
        return scriptfile.index(path)
    tensors = state_dict_of(torchfile.load(path, "meta"), str(path))
    found = {name: torchfile.place_of(tensor) for name, tensor in tensors.items()}
    return {name: place for name, place in found.items() if place is not None}


def tensor_names(path: str | Path) -> list[str]:
    """The names in a file; of all but files from before PyTorch 1.6, without reading the tensors.

    Raises:
        ConversionError: as :func:`read_checkpoint`.
    """
    path = _existing(path)
    if path.suffix == ".safetensors" or torchfile.is_zip(path):
        return list(_index(path))
    return list(read_checkpoint(path).tensors)


def write_checkpoint(like_path: str | Path, tensors: Mapping[str, Tensor], target: str | Path) -> None:
    """A copy of a checkpoint in which some tensors have other values; every other byte stays.

    Names, order, dtypes, shared storage, metadata and whatever lies beside the state dict are the file's own.
    In archives the checksums follow.  Files from before PyTorch 1.6 are saved again in their format.

    Args:
        like_path: the file that is copied.
        tensors: name in the file -> values of the same shape.
        target: where the copy goes; it appears whole or not at all.

    Raises:
        ConversionError: the file has no tensor of such a name and shape, its type cannot hold the values, or two
            names of one tensor get different values.
    """
    source, target = _existing(like_path), Path(target)
    if source.suffix == ".safetensors" or torchfile.is_zip(source):
        _patch(source, tensors, target)
        return
    data = torchfile.load(source)
    own = state_dict_of(data, str(source))
    values = _checked(source, tensors, {n: (t.dtype, tuple(t.shape)) for n, t in own.items() if _plain(t)})
    _one_value_each(values, {n: (t.data_ptr(), t.shape, t.stride()) for n, t in own.items() if n in values})
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    with replacing(target) as temporary:
        torch.save(data, temporary, _use_new_zipfile_serialization=False)


def _patch(source: Path, tensors: Mapping[str, Tensor], target: Path) -> None:
    places = _index(source)
    values = _checked(source, tensors, {name: (p.dtype, p.shape) for name, p in places.items()})
    _one_value_each(values, places)
    archive = source.suffix != ".safetensors"
    if archive:
        torchfile.check_byte_order(source)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        with Path(temporary).open("r+b") as file:
            for name, value in values.items():
                places[name].write(file, value)
            if archive:
                torchfile.repair_checksums(file, (places[name].start for name in values))


def _checked(
    source: Path, tensors: Mapping[str, Tensor], known: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """The values in the types of the file."""
    values = {}
    for name, given in tensors.items():
        dtype, shape = known.get(name, (None, "no such tensor"))
        value = torch.as_tensor(given)
        if dtype is None or shape != tuple(value.shape):
            raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; {source} has {shape}")
        values[name] = cast(name, value, dtype)
    return values


def _one_value_each(values: Mapping[str, Tensor], places: Mapping[str, object]) -> None:
    first: dict[object, str] = {}
    for name, value in values.items():
        other = first.setdefault(places[name], name)
        if other != name and not torch.equal(values[other], value):
            raise ConversionError(f"{other!r} and {name!r} are one tensor in the file: give them the same values")
