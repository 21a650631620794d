"""Builders of zoos: many networks trained at once, resumable, each network reproducible on its own."""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from experiments.errors import ExperimentError
from experiments.zoos.builder import Builder as Builder
from experiments.zoos.cnn import DIGITS_CNN as DIGITS_CNN
from experiments.zoos.cnn import FMNIST_CNN as FMNIST_CNN
from experiments.zoos.cnn import MNIST_CNN as MNIST_CNN
from experiments.zoos.cnn import CNNZoo as CNNZoo
from experiments.zoos.plans import CNNRanges as CNNRanges
from experiments.zoos.siren import DIGITS_SIREN as DIGITS_SIREN
from experiments.zoos.siren import FMNIST_SIREN as FMNIST_SIREN
from experiments.zoos.siren import MNIST_SIREN as MNIST_SIREN
from experiments.zoos.siren import SirenFit as SirenFit
from experiments.zoos.siren import SirenZoo as SirenZoo
from experiments.zoos.wild import DIGITS_WILD as DIGITS_WILD
from experiments.zoos.wild import WildZoo as WildZoo

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        "digits-cnn": DIGITS_CNN,
        "mnist-cnn": MNIST_CNN,
        "fmnist-cnn": FMNIST_CNN,
        "digits-siren": DIGITS_SIREN,
        "mnist-siren": MNIST_SIREN,
        "fmnist-siren": FMNIST_SIREN,
        "digits-wild": DIGITS_WILD,
    }
)
"""Name on the command line -> builder."""


def builder_named(name: str) -> Builder:
    """A builder by its name on the command line.

    ``NAME-wN`` builds networks with N neurons in every hidden layer, ``NAME-fN`` N networks for every image that they
    are fitted to, ``NAME-wN-fN`` both.

    Raises:
        ExperimentError: there is no such builder, its networks have no common width, or are not fitted to one image.

    Example:
        >>> builder_named("digits-siren-w64").width, builder_named("digits-siren") is DIGITS_SIREN
        (64, True)
        >>> builder_named("digits-siren-f3").fits
        3
    """
    parts = re.fullmatch(r"(.+?)(?:-w([1-9]\d*))?(?:-f([1-9]\d*))?", name)
    stem, width, fits = parts.groups() if parts else (name, None, None)
    if stem not in BUILDERS:
        known = ", ".join(BUILDERS)
        raise ExperimentError(f"unknown zoo {name!r}; known: {known}, with -w64 behind it for a width, -f3 for fits")
    builder = BUILDERS[stem]
    if width is not None and builder.width is None:
        raise ExperimentError(f"networks of zoo {stem!r} have no common width: leave out -w{width}")
    if fits is not None and builder.fits is None:
        raise ExperimentError(f"networks of zoo {stem!r} are not fitted to one image each: leave out -f{fits}")
    changes = {field: int(number) for field, number in (("width", width), ("fits", fits)) if number is not None}
    return replace(builder, **changes) if changes else builder
