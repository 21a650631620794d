"""C functions, those in ``csrc`` and others, compiled when first used where there is a C compiler, and cached on disk.

They are an accelerator: everything that they compute PyTorch's operators compute here, too. ``GRAPHNFN_COMPILED=0``
does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path

import torch

TYPES = {torch.float32: ("-DREAL=float",), torch.float64: ("-DREAL=double", "-DWIDE")}
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
FOLDER = Path(__file__).with_name("csrc")


@lru_cache(maxsize=8)
def library(dtype: torch.dtype, folder: Path = FOLDER) -> ctypes.CDLL | None:
    """The functions for a type of numbers; None where they are switched off or there is no working compiler.

    A compiler that is there and fails is warned about: without the functions everything is slower, and nothing else
    would tell.

    Args:
        dtype: of the numbers, a key of :data:`TYPES`.
        folder: the C files; they may include the headers in ``csrc``.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if os.environ.get("GRAPHNFN_COMPILED") == "0" or compiler is None or platform.system() == "Windows":
        return None
    wide = ["-mprefer-vector-width=512"] if platform.machine().lower() in ("x86_64", "amd64") else []
    command = [compiler, *FLAGS, *wide, *TYPES[dtype], f"-I{FOLDER}", *map(str, sorted(folder.glob("*.c")))]
    facts = Path("/proc/cpuinfo")
    flags = next((x for x in facts.read_text().splitlines() if x.startswith("flags")), "") if facts.exists() else ""
    files = sorted({*FOLDER.glob("*.h"), *folder.glob("*.[ch]")})
    sources = [path.read_text() for path in files]
    key = hashlib.sha256("\n".join([*command, *sources, platform.platform(), flags]).encode()).hexdigest()
    for cache in (Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphnfn", None):
        try:
            place = Path(tempfile.mkdtemp(prefix="graphnfn-")) if cache is None else cache
            return ctypes.CDLL(str(_built(command, place / f"graphnfn-{key[:24]}.so")))
        except OSError:
            continue  # a folder that cannot be written to
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = (error.stderr or b"").decode(errors="replace").splitlines()
            reason = next((line for line in lines if "error" in line.lower()), str(error))
            warnings.warn(
                f"{compiler} does not compile {folder}: {reason}. PyTorch's operators do the same, more slowly; with "
                "GRAPHNFN_COMPILED=0 nothing is tried, CC names another compiler",
                stacklevel=2,
            )
            break
    return None


def bits(number: float) -> int:
    """A double as the integer of the same bits, as structures that are written as rows of integers take it.

    Example:
        >>> bits(0.0), bits(-0.0) == -(2**63)
        (0, True)
    """
    return struct.unpack("q", struct.pack("d", number))[0]


def _built(command: list[str], path: Path) -> Path:
    """The shared library; it appears whole or not at all, so that processes may race."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            subprocess.run([*command, "-o", str(fresh), "-lm"], check=True, capture_output=True, timeout=120)
            fresh.replace(path)
    return path
