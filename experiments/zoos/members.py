"""One network of a fleet of classifiers: its plan, and what is drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.zoos.draws import network_generator
from experiments.zoos.images import Images
from experiments.zoos.initial import initial_weights
from experiments.zoos.optimisers import StackedOptimiser
from experiments.zoos.plans import CNNPlan
from graphnfn.spec import NetSpec

TRAIN_IMAGES = 2000
"""Training accuracy and loss are measured on at most so many images."""


class Member(NamedTuple):
    """A plan with what follows from it.

    ``images [steps, batch]`` are seen in training; training measures are taken on the images ``measured`` where
    ``seen`` is true; ``masks`` gives dropout.
    """

    plan: CNNPlan
    initial: dict[str, Tensor]
    images: Tensor
    measured: Tensor
    seen: Tensor
    masks: np.random.Generator


def prepare(plan: CNNPlan, spec: NetSpec, data: Images, seed: int, batch: int) -> Member:
    """Draw what a network needs: its weights, its images, its chance.

    Args:
        plan: the hyper-parameters.
        spec: the architecture.
        data: the images.
        seed: of the zoo.
        batch: images per step.
    """
    rng = network_generator(seed, plan.network, "images")
    count = max(1, round(plan.train_fraction * len(data.train)))
    order = rng.permutation(len(data.train))
    pool = data.train[torch.from_numpy(order[:count])]
    images = pool[torch.from_numpy(rng.integers(count, size=(plan.steps, batch)))]
    places = np.argsort(order[:TRAIN_IMAGES])
    initial = initial_weights(
        spec, plan.init, plan.init_scale, plan.bias_std, network_generator(seed, plan.network, "initial")
    )
    return Member(
        plan,
        initial,
        images,
        measured=data.train[torch.from_numpy(order[places])],
        seen=torch.from_numpy(places < count),
        masks=network_generator(seed, plan.network, "dropout"),
    )


def optimiser_of(fleet: Sequence[Member]) -> StackedOptimiser:
    """The optimiser of some networks."""
    plans = [m.plan for m in fleet]
    rate, decay = (
        torch.tensor([getattr(p, name) for p in plans], dtype=torch.float32)
        for name in ("learning_rate", "weight_decay")
    )
    return StackedOptimiser([p.optimiser for p in plans], rate, decay)
