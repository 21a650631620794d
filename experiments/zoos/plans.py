"""Hyper-parameters of classifiers: what they are drawn from, and what one network got."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.zoos.draws import Range, log_uniform, network_generator, split_name
from experiments.zoos.initial import FIXED_INITS, INITS, STD_INITS


@dataclass(frozen=True, kw_only=True)
class CNNRanges:
    """What the hyper-parameters are drawn from: pairs are bounds (log-uniform; dropout uniform), others choices.

    Args:
        init: see :mod:`experiments.zoos.initial`.
        init_scale: factor on the deviation of the init, where it takes one.
        train_fraction: share of the training images that a network may see.
        dropout: share of channels set to zero behind every convolution, per image and step.
        batch: images per step, drawn with replacement.
    """

    activation: tuple[str, ...] = ("relu", "tanh")
    optimiser: tuple[str, ...] = ("sgd", "adam", "rmsprop")
    init: tuple[str, ...] = INITS
    learning_rate: Range = (5e-4, 5e-2)
    weight_decay: Range = (1e-8, 1e-2)
    init_scale: Range = (0.3, 3.0)
    bias_std: tuple[float, ...] = (0.0, 0.01, 0.1)
    train_fraction: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    dropout: Range = (0.0, 0.5)
    steps: Range = (20, 400)
    batch: int = 32


SMALL_CNN_ZOO = CNNRanges(
    init=(*FIXED_INITS, *STD_INITS),
    init_scale=(1e-3, 0.5),
    bias_std=(0.0,),
    dropout=(0.0, 0.7),
    steps=(100, 1200),
)
"""The Small CNN Zoo's ranges (Unterthiner et al. 2020, arXiv 2002.11448).

Where a zoo on two cores differs: 100 to 1,200 steps of 32 images instead of 86 epochs in batches of 512, momentum .9
in SGD, dropout of whole channels, and weight decay on biases as well.
"""


@dataclass(frozen=True, kw_only=True)
class CNNPlan:
    """Hyper-parameters of one network; columns of the table."""

    network: int
    activation: str
    optimiser: str
    init: str
    learning_rate: float
    weight_decay: float
    init_scale: float
    bias_std: float
    train_fraction: float
    dropout: float
    steps: int
    split: str


def draw_plan(network: int, seed: int, ranges: CNNRanges) -> CNNPlan:
    """The hyper-parameters of one network.

    Example:
        >>> draw_plan(7, 0, CNNRanges()) == draw_plan(7, 0, CNNRanges())
        True
    """
    rng = network_generator(seed, network, "plan")
    activation, optimiser = str(rng.choice(ranges.activation)), str(rng.choice(ranges.optimiser))
    init = str(rng.choice(ranges.init))
    learning_rate, weight_decay = log_uniform(rng, ranges.learning_rate), log_uniform(rng, ranges.weight_decay)
    scale = log_uniform(rng, ranges.init_scale)
    return CNNPlan(
        network=network,
        activation=activation,
        optimiser=optimiser,
        init=init,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        init_scale=1.0 if init in FIXED_INITS else scale,
        bias_std=float(rng.choice(ranges.bias_std)),
        train_fraction=float(rng.choice(ranges.train_fraction)),
        dropout=float(rng.uniform(*ranges.dropout)),
        steps=round(log_uniform(rng, ranges.steps)),
        split=split_name(seed, network),
    )
