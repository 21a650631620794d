"""The survey of real checkpoints: what a row says, and what goes wrong in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.architectures import (
    Architecture,
    AttaCut,
    DigitRecognizer,
    OutputNet,
    Pronounce,
    ProposalNet,
    RefineNet,
    SileroVAD,
)
from experiments.checkpoints import CHECKPOINTS, Checkpoint, markdown, measure, survey
from experiments.errors import ExperimentError

GROUPS = {DigitRecognizer: 4, ProposalNet: 3, RefineNet: 4, OutputNet: 5, AttaCut: 4, SileroVAD: 5, Pronounce: 3}


@pytest.mark.parametrize("architecture", list(GROUPS))
def test_a_row_of_every_architecture(architecture: type[Architecture], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(architecture().state_dict(), path)
    row = measure(Checkpoint("net", "package==1", "weights.pt", architecture), path)
    assert row["groups"] == GROUPS[architecture] and row["demoted"] == 0
    assert row["error"] < 1e-9 < row["control"] and row["exact"]
    assert row["parameters"] == sum(p.numel() for p in architecture().parameters()) + _buffers(architecture)


def _buffers(architecture: type[Architecture]) -> int:
    return sum(b.numel() for b in architecture().buffers() if b.is_floating_point())


def test_a_table_also_says_what_failed() -> None:
    row = {"name": "net", "parameters": 1234, "groups": 2, "kinds": {"GL": 1}, "families": 0, "error": 1e-12}
    row |= {"control": 0.31, "demoted": 1, "exact": False, "seconds": 0.5, "peak_mb": 100.0}
    text = markdown([row, {"name": "other", "error": "no such file"}])
    assert "| net | 1,234 | 2 | 1 GL | 0 | 1.0e-12 (1 groups demoted) | 0.3 | differs | 0.5 | 100 |" in text
    assert "| other | failed: no such file |" in text


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="unknown checkpoint 'resnet'"):
        survey(tmp_path, ("resnet",))


def test_names_are_distinct() -> None:
    assert len({c.name for c in CHECKPOINTS}) == len(CHECKPOINTS)
