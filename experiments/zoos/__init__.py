"""Builders of zoos: many networks trained at once, resumable, each network reproducible on its own."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from experiments.zoos.digits_cnn import DigitsCNNRanges as DigitsCNNRanges
from experiments.zoos.digits_cnn import build_digits_cnn as build_digits_cnn
from experiments.zoos.digits_siren import DigitsSirenFit as DigitsSirenFit
from experiments.zoos.digits_siren import build_digits_siren as build_digits_siren
from graphnfn.zoo import Zoo


class Builder(Protocol):
    """What every zoo builder can be called with; each has further settings of its own."""

    def __call__(self, folder: str | Path, size: int, *, seed: int = 0, chunk: int = ..., progress: bool = True) -> Zoo:
        """Build the zoo, or go on building it."""
        ...


BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        "digits-cnn": build_digits_cnn,
        "digits-siren": build_digits_siren,
    }
)
"""Name on the command line -> builder."""
