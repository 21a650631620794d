"""Zip archives, unpacked and rewritten without trusting what they declare."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graphnfn.errors import ConversionError

MAX_BYTES = 4 << 30
"""Largest file, and largest sum of the tensors in it, that is read."""
MAX_RATIO = 1100
"""Deflate cannot expand further; what claims to is refused."""


def member(archive: zipfile.ZipFile, name: str, limit: int = MAX_BYTES) -> bytes:
    """A file in an archive, checked against what it declares before it is unpacked.

    Raises:
        ConversionError: there is none of this name, or it is larger than the limit or than it can be.
    """
    try:
        info = archive.getinfo(name)
    except KeyError:
        found = archive.namelist()[:8]
        raise ConversionError(f"{archive.filename}: no {name} in the archive, which holds {found}") from None
    if info.file_size > min(limit, MAX_RATIO * max(info.compress_size, 1)):
        raise ConversionError(
            f"{archive.filename}: {name} claims {info.file_size} bytes, packed in {info.compress_size}; "
            f"expected at most {limit}"
        )
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ConversionError(f"{archive.filename}: {name} has another size than it declares; save it again")
    return data


def rewritten(source: Path, target: str, change: Callable[[str, bytes], bytes]) -> None:
    """Copy an archive; ``change(name, data)`` gives the new content of a file in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        new.comment = old.comment
        for info in old.infolist():
            new.writestr(info, change(info.filename, member(old, info.filename)))


@contextmanager
def replacing(target: Path) -> Iterator[str]:
    """A temporary file beside the target, which takes its place if all goes well and vanishes if not."""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise ConversionError(f"{target}: cannot be written ({error.strerror}); give a path in a folder") from error
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes it private
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
