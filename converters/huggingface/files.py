"""The weights in a folder: one file or several with an index."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from converters.archive import MAX_BYTES
from converters.checkpoints import read_checkpoint
from converters.huggingface.config import read_json
from graphnfn.errors import ConversionError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"


def weight_files(path: Path, usual: tuple[str, ...] = WEIGHTS) -> list[Path]:
    """The files that hold the tensors of a folder, or of the one file that is given.

    Args:
        path: folder or file.
        usual: names of the file in a folder, the best first; ``name.index.json`` lists several.

    Raises:
        ConversionError: there are none, or an index leads elsewhere.
    """
    if path.is_file():
        return _listed(path) if path.name.endswith(_INDEX) else [path]
    if not path.is_dir():
        raise ConversionError(f"{path}: no such folder or file; expected {usual[0]} or a folder with it")
    for name in usual:
        if (path / name).is_file():
            return [path / name]
        if (path / f"{name}{_INDEX}").is_file():
            return _listed(path / f"{name}{_INDEX}")
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    names = [f.name for f in sorted(path.iterdir())][:8]
    raise ConversionError(
        f"{path}: none of {', '.join(usual)} in the folder, which has {', '.join(names) or 'nothing'}"
    )


def _listed(index: Path) -> list[Path]:
    """The files of an index, all beside it."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(f, str) for f in listed.values()):
        raise ConversionError(f"{index}: has no weight_map of names to files; download it again")
    files = []
    for name in dict.fromkeys(listed.values()):
        file = index.parent / name
        if Path(name).name != name or name in ("", ".", ".."):
            raise ConversionError(f"{index}: names the file {name[:80]!r}; expected one beside the index")
        if not file.is_file():
            raise ConversionError(f"{index}: lists {name[:80]!r}, which is not there; download it too")
        files.append(file)
    return files


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of the files.

    Raises:
        ConversionError: a file is damaged, all together are too large, or two have a tensor of one name.
    """
    total = sum(file.stat().st_size for file in files)
    if total > MAX_BYTES:
        raise ConversionError(f"{files[0].parent}: the weights have {total} bytes; expected at most {MAX_BYTES}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        found = read_checkpoint(file).tensors
        twice = next((name for name in found if name in tensors), None)
        if twice is not None:
            raise ConversionError(f"{file}: {twice!r} is in another file too; download them again")
        tensors |= found
    return tensors
