"""A zoo of small CNNs trained on digits with random hyper-parameters (after Unterthiner et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.zoos.chunks import Chunk, build_in_chunks
from experiments.zoos.digits import Digits, digits
from experiments.zoos.draws import Range, log_uniform, network_generator, split_name
from experiments.zoos.fleet import flatten, in_company, train, unflatten
from experiments.zoos.initial import INITS, initial_weights
from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.chain import small_cnn_spec
from graphnfn.functional import run
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

_CHANNELS, _CLASSES, _SHAPE = (1, 16, 16, 16), 10, (1, 8, 8)
_EVALUATE_AT_ONCE = 250


@dataclass(frozen=True, kw_only=True)
class DigitsCNNRanges:
    """What the hyper-parameters are drawn from: pairs are bounds (log-uniform; dropout uniform), others choices.

    Args:
        init_scale: factor on a deviation of ``1 / fan_in^(1/2)``.
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


class _Member(NamedTuple):
    """A plan with what follows from it: initial weights, images per step, and the generator of dropout masks."""

    plan: CNNPlan
    initial: dict[str, Tensor]
    images: Tensor
    pool: Tensor
    masks: np.random.Generator


def build_digits_cnn(
    folder: str | Path,
    size: int,
    *,
    seed: int = 0,
    ranges: DigitsCNNRanges | None = None,
    chunk: int = 50,
    progress: bool = True,
) -> Zoo:
    """Train ``size`` CNNs 1-16-16-16 (3 x 3, global average pool, dense layer; 4,970 parameters) on digits.

    Network i depends on ``seed``, ``ranges`` and i only, to the bit on one machine. Call it again after a kill.

    Args:
        folder: of the zoo.
        size: number of networks.
        seed: of everything random.
        ranges: of the hyper-parameters.
        chunk: networks trained at once.
        progress: show a progress bar.

    Raises:
        ZooError: the folder holds something else.
    """
    ranges = ranges or DigitsCNNRanges()
    about = {
        "builder": "digits-cnn",
        "seed": seed,
        "ranges": dataclasses.asdict(ranges),
        "input": "scikit-learn digits 8x8, standardised with mean and deviation of the training pixels",
    }
    make = partial(_make, seed=seed, ranges=ranges)
    return build_in_chunks(folder, size, make, chunk=chunk, about=about, progress=progress)


def digits_cnn_spec(activation: str) -> NetSpec:
    """The architecture of the networks."""
    return small_cnn_spec(_CHANNELS, _CLASSES, activation, input_shape=_SHAPE)


def draw_plan(network: int, seed: int, ranges: DigitsCNNRanges) -> CNNPlan:
    """The hyper-parameters of one network.

    Example:
        >>> draw_plan(7, 0, DigitsCNNRanges()) == draw_plan(7, 0, DigitsCNNRanges())
        True
    """
    rng = network_generator(seed, network, "plan")
    return CNNPlan(
        network=network,
        activation=str(rng.choice(ranges.activation)),
        optimiser=str(rng.choice(ranges.optimiser)),
        init=str(rng.choice(ranges.init)),
        learning_rate=log_uniform(rng, ranges.learning_rate),
        weight_decay=log_uniform(rng, ranges.weight_decay),
        init_scale=log_uniform(rng, ranges.init_scale),
        bias_std=float(rng.choice(ranges.bias_std)),
        train_fraction=float(rng.choice(ranges.train_fraction)),
        dropout=float(rng.uniform(*ranges.dropout)),
        steps=round(log_uniform(rng, ranges.steps)),
        split=split_name(seed, network),
    )


def evaluate(stack: Stack, data: Digits, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whether every network is right about some images, and its loss there, each ``[B, images]``."""
    right, loss = [], []
    for part in rows.split(_EVALUATE_AT_ONCE):
        inputs, labels = data.standardised[part], data.labels[part].expand(stack.size, -1)
        # per_network: shared inputs would take other kernels, whose rounding depends on the number of networks
        logits = run(stack, inputs.expand(stack.size, *inputs.shape), per_network=True)
        right.append(logits.argmax(-1) == labels)
        loss.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape))
    return torch.cat(right, 1), torch.cat(loss, 1)


def _make(numbers: range, *, seed: int, ranges: DigitsCNNRanges) -> Chunk:
    data = digits()
    plans = [draw_plan(i, seed, ranges) for i in numbers]
    stacks, table = [], []
    for s, activation in enumerate(kind for kind in ranges.activation if any(p.activation == kind for p in plans)):
        chosen = [p for p in plans if p.activation == activation]
        spec = digits_cnn_spec(activation)
        members = [_prepare(p, spec, seed, ranges, data) for p in in_company(chosen)]
        stack = _train(spec, members, data, ranges.batch)
        stacks.append(stack.take(slice(0, len(chosen))))
        table += [row | {"spec": s} for row in _measure(stack, members[: len(chosen)], data)]
    frame = pd.DataFrame(table).sort_values("network", ignore_index=True)
    return Chunk(stacks, frame)


def _prepare(plan: CNNPlan, spec: NetSpec, seed: int, ranges: DigitsCNNRanges, data: Digits) -> _Member:
    rng = network_generator(seed, plan.network, "images")
    count = max(1, round(plan.train_fraction * len(data.train)))
    pool = data.train[torch.from_numpy(rng.permutation(len(data.train))[:count])]
    images = pool[torch.from_numpy(rng.integers(count, size=(plan.steps, ranges.batch)))]
    initial = initial_weights(
        spec, plan.init, plan.init_scale, plan.bias_std, network_generator(seed, plan.network, "initial")
    )
    return _Member(plan, initial, images, pool, network_generator(seed, plan.network, "dropout"))


def _train(spec: NetSpec, members: Sequence[_Member], data: Digits, batch: int) -> Stack:
    """The trained networks in the order of ``members``, two at least."""
    order = sorted(range(len(members)), key=lambda i: -members[i].plan.steps)
    fleet = [members[i] for i in order]
    plans = [m.plan for m in fleet]
    rate, decay = (
        torch.tensor([getattr(p, name) for p in plans], dtype=torch.float32)
        for name in ("learning_rate", "weight_decay")
    )
    optimiser = StackedOptimiser([p.optimiser for p in plans], rate, decay)
    pixels = data.standardised

    def loss(stack: Stack, step: int) -> Tensor:
        here = fleet[: stack.size]
        images = torch.stack([m.images[min(step, m.plan.steps - 1)] for m in here])
        keep = _dropout_masks(here, batch)
        logits = run(stack, pixels[images], per_network=True, hidden=lambda i, h: h * keep[i - 1][..., None, None])
        entropy = F.cross_entropy(logits.flatten(0, 1), data.labels[images].flatten(), reduction="none")
        return entropy.view(images.shape).mean(1)

    theta = train(spec, flatten([m.initial for m in fleet]), optimiser, [p.steps for p in plans], loss)
    return unflatten(spec, theta[torch.tensor(order).argsort()])


def _dropout_masks(members: Sequence[_Member], batch: int) -> Tensor:
    """Factors ``[convolutions, batch, networks, channels]`` of mean 1."""
    shape = (len(_CHANNELS) - 1, batch, _CHANNELS[1])
    draws = np.stack([m.masks.random(shape, dtype=np.float32) for m in members], axis=2)
    drop = torch.tensor([m.plan.dropout for m in members])[:, None]
    return (torch.from_numpy(draws) >= drop) / (1 - drop)


def _measure(stack: Stack, members: Sequence[_Member], data: Digits) -> list[dict[str, object]]:
    right, loss = evaluate(stack, data, data.train)
    test_right, test_loss = evaluate(stack, data, data.test)
    rows = []
    for i, member in enumerate(members):
        seen = torch.isin(data.train, member.pool)
        rows.append(
            {
                **dataclasses.asdict(member.plan),
                "train_accuracy": right[i, seen].double().mean().item(),
                "train_loss": loss[i, seen].double().mean().item(),
                "test_accuracy": test_right[i].double().mean().item(),
                "test_loss": test_loss[i].double().mean().item(),
            }
        )
    return rows
