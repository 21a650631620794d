"""Builders of zoos: many networks trained at once, resumable, each network reproducible on its own."""

from collections.abc import Mapping
from types import MappingProxyType

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
