"""C functions are there wherever a compiler is, and what keeps them away is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from experiments.zoos import compiled
from graphnfn.nn import library

has_compiler = shutil.which("cc") is not None and os.environ.get("GRAPHNFN_COMPILED") != "0"


@pytest.mark.skipif(not has_compiler, reason="no C compiler, or switched off")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("folder", [library.FOLDER, compiled.FOLDER], ids=["layers", "builders"])
def test_where_there_is_a_compiler_there_are_functions(dtype: torch.dtype, folder: Path) -> None:
    """Otherwise a mistake in the sources would look like a machine without a compiler, and other tests would skip."""
    assert library.library(dtype, folder) is not None


@pytest.mark.skipif(not has_compiler, reason="no C compiler, or switched off")
def test_sources_that_do_not_compile_are_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.c").write_text("int f(void) { return missing; }\n")
    with pytest.warns(UserWarning, match="does not compile .*missing"):
        assert library.library.__wrapped__(torch.float32, tmp_path) is None


def test_switched_off_or_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("GRAPHNFN_COMPILED", "0"), ("PATH", "")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            changed.setenv("CC", "no-such-compiler")
            assert library.library.__wrapped__(torch.float32) is None
