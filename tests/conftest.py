"""Shared fixtures: one thread, a fixed seed per test, the project's shared data folder where it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # small tensors: more threads only disturb tests that run beside each other
hypothesis.settings.register_profile("graphnfn", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("graphnfn")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test starts from the same random state and may not leave another default dtype behind."""
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test changed the default dtype"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository; tests that need it are skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the project's shared data folder {folder.name}/ beside the repository")
    return folder
