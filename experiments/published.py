"""What a training step of published codes costs: the figures of ``published_costs.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_FILE = Path(__file__).with_name("published_costs.yaml")


@dataclass(frozen=True)
class Figure:
    """A published code's cost on one shape, measured as the file says.

    Args:
        shape: key of :data:`experiments.bench.subjects.SHAPES`.
        baseline: the same model here.
        preset: its settings.
        model: what the authors call it.
        parameters: of the published model.
        step_ms: CPU milliseconds of forward, loss, backward and AdamW on 64 networks.
        codes: the repositories, with commits.
        peak_mb: growth of resident memory in MiB, None where it was not measured.
    """

    shape: str
    baseline: str
    preset: str
    model: str
    parameters: int
    step_ms: float
    codes: str
    peak_mb: float | None


def published_figures() -> list[Figure]:
    """All figures.

    Example:
        >>> {f.shape for f in published_figures()} == {"small_cnn", "siren"}
        True
    """
    data: Any = OmegaConf.to_container(OmegaConf.load(_FILE))
    names = ("shape", "baseline", "preset", "model", "parameters", "step_ms")
    return [
        Figure(
            **{name: row[name] for name in names},
            codes=data["sources"][row["source"]]["codes"],
            peak_mb=row.get("peak_mb"),
        )
        for row in data["figures"]
    ]
