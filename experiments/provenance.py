"""Where numbers come from: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

_PACKAGES = ("graphnfn", "torch", "torch-geometric", "lightning")


def commit() -> str:
    """The commit of the checkout that this code runs from, with ``+changes`` where files differ; else "unknown"."""
    folder = Path(__file__).resolve().parent
    try:
        done = [
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done[0] + ("+changes" if done[1] else "")


def portable(command: str) -> str:
    """A command without the folders of the machine that it ran on.

    Example:
        >>> portable("graphnfn compare zoo.folder=/data/zoos/mnist -o runs/a")
        'graphnfn compare zoo.folder=PATH/mnist -o runs/a'
    """
    return re.sub(r"(?<![\w./-])/(?:[\w.+-]+/)*([\w.+-]+)", r"PATH/\1", command)


def package_version(name: str) -> str:
    """An installed package's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, str]:
    """The machine and the versions, for people to read."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "packages": ", ".join(f"{name} {package_version(name)}" for name in _PACKAGES),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
