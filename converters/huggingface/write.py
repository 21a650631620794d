"""Other weights into the same files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from converters.checkpoints import read_checkpoint, tensor_names, write_checkpoint
from converters.huggingface.files import weight_files
from converters.huggingface.load import FAMILIES, tied_copies
from graphnfn.errors import ConversionError


def write_huggingface(like_path: str | Path, tensors: Mapping[str, Tensor], target: str | Path) -> None:
    """A copy of a folder, or of the one file that is given, in which some tensors have other values.

    Every other byte stays, see :func:`converters.checkpoints.write_checkpoint`.  A head that is stored although it
    equals the embedding follows it.

    Args:
        like_path: what is copied.
        tensors: name in the files -> values of the same shape.
        target: a new folder, or a file; it appears whole or not at all.

    Raises:
        ConversionError: there is no tensor of such a name and shape, or its type cannot hold the values.
    """
    source, target = Path(like_path), Path(target)
    write_files(source, weight_files(source), _with_copies(weight_files(source), tensors), target)


def _with_copies(files: list[Path], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values, and those of heads that are stored as copies of an embedding among them."""
    out = dict(tensors)
    names = {name for file in files for name in tensor_names(file)}
    for family in FAMILIES.values():
        if any(head in names and head not in tensors for head, _ in family.tied):
            known = {n: t for file in files for n, t in read_checkpoint(file).tensors.items()}
            copies = tied_copies(family, known)
            out |= {head: tensors[source] for head, source in copies.items() if source in tensors and head not in out}
    return out


def write_files(source: Path, files: list[Path], tensors: Mapping[str, Tensor], target: Path) -> None:
    """A copy of a folder or file, with other values in the files that hold its weights.

    Raises:
        ConversionError: no file has a tensor of such a name and shape, or the target exists.
    """
    if source.is_file():
        if len(files) > 1:
            raise ConversionError(f"{source}: lists several files; give their folder, and a new folder as the target")
        write_checkpoint(files[0], tensors, target)
        return
    if target.exists():
        raise ConversionError(f"{target}: exists already; give the name of a new folder")
    owner = {name: file for file in files for name in tensor_names(file)}
    unknown = next((name for name in tensors if name not in owner), None)
    if unknown is not None:
        raise ConversionError(f"{unknown!r} is not in {source}; give the names that its files have")
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        shutil.copytree(source, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*(f.name for f in files)))
        for file in files:
            write_checkpoint(file, {n: t for n, t in tensors.items() if owner[n] == file}, made / file.name)
        made.chmod(source.stat().st_mode)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
