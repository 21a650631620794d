"""Zoos of SIRENs, each fitted to one image: networks as images, labelled with the class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.zoos.builder import Builder
from experiments.zoos.chunks import Chunk
from experiments.zoos.compiled import can_compile
from experiments.zoos.compiled_nets import CompiledMLPs
from experiments.zoos.draws import network_generator, split_name
from experiments.zoos.fast_mlp import PlainMLPs, mlps_at_once
from experiments.zoos.fleet import aligned, descend, flatten, in_company, pieces, unflatten
from experiments.zoos.images import Images
from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.chain import mlp_spec
from graphnfn.spec import NetSpec

_WIDTH, _OMEGA = 32, 30.0


@dataclass(frozen=True, kw_only=True)
class SirenFit:
    """How every SIREN is fitted: Adam on all pixels of its image; by default to about 43 dB."""

    steps: int
    learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class SirenZoo(Builder):
    """A builder of SIRENs 2-width-width-1 with omega 30, each from an initialisation of its own.

    Args:
        data: name of the images, see :mod:`experiments.zoos.images`.
        fit: steps and learning rate.
        fits: networks per image, one after the other; the next image comes then.
        width: neurons in each of the two hidden layers.
    """

    kind = "siren"
    chunk = 100
    fit: SirenFit
    fits: int = 1
    width: int = _WIDTH

    def about(self, images: Images) -> dict[str, Any]:
        height, width = images.images.shape[1:]
        return {
            "fit": dataclasses.asdict(self.fit) | {"fits": self.fits},
            "input": f"pixels of an {height}x{width} grid, both coordinates linspace(-1, 1, {width}), "
            "order (row, column)",
            "target": "pixel value scaled to [-1, 1]",
            **self.other_width(_WIDTH),
        }

    def make(self, numbers: range, images: Images, seed: int) -> Chunk:
        """Images in random order, again from the first after the last one.

        The table tells image (its number in training and test images, one after the other), fit (how many networks
        of this image came before), class and quality in dB. All networks of an image are in the same split.
        """
        spec = siren_spec(self.width)
        grid = pixel_grid(images.images.shape[-1])
        order = np.random.default_rng(seed).permutation(len(images.images))
        turns = [(i // self.fits // len(order), i // self.fits % len(order), i % self.fits) for i in numbers]
        chosen = [int(order[place]) for _, place, _ in turns]
        targets = torch.stack([images.images[image].flatten() * 2 - 1 for image in chosen])
        initial = flatten([initial_siren(spec, seed, i) for i in numbers])
        theta, errors = fit_squares(spec, initial, grid, targets, self.fit)
        psnr = 10 * torch.log10(4 / errors.double())
        table = pd.DataFrame(
            {
                "network": list(numbers),
                "image": chosen,
                "fit": [turn * self.fits + fit for turn, _, fit in turns],
                "label": images.labels[chosen].tolist(),
                "psnr": psnr.tolist(),
                "split": [split_name(seed, image) for image in chosen],
            }
        )
        return Chunk([unflatten(spec, theta)], table)


DIGITS_SIREN = SirenZoo(data="digits", fit=SirenFit(steps=60))
MNIST_SIREN = SirenZoo(data="mnist", fit=SirenFit(steps=300))
FMNIST_SIREN = SirenZoo(data="fmnist", fit=SirenFit(steps=300))


def fit_squares(spec: NetSpec, theta: Tensor, inputs: Tensor, targets: Tensor, fit: SirenFit) -> tuple[Tensor, Tensor]:
    """Networks with one output that minimise the mean square of outputs - targets, by Adam on all samples.

    A few at once are trained to the end before the next ones, see :func:`~experiments.zoos.fast_mlp.mlps_at_once`.

    Args:
        spec: of :func:`experiments.zoos.fast_mlp.is_plain_mlp`.
        theta: ``[B, P]``, where they begin.
        inputs: ``[samples, inputs]``.
        targets: ``[B, samples]``.
        fit: steps and learning rate.

    Returns:
        The trained rows and their mean squares, ``[B]``.
    """
    trained, left, compiled = [], [], can_compile(theta)
    for piece in pieces(len(theta), mlps_at_once(spec, 0 if compiled else len(inputs))):
        here = in_company(piece)
        rows, goals = aligned(theta[here]), targets[here][:, None]
        mlps = (CompiledMLPs if compiled else PlainMLPs)(spec, rows, inputs)
        rates = rows.new_full((len(here),), fit.learning_rate)
        optimiser = StackedOptimiser(["adam"] * len(here), rates, torch.zeros_like(rates))

        def gradient(_: Tensor, __: int, mlps=mlps, goals=goals) -> Tensor:
            return mlps.gradient_of_squares(goals)

        descend(rows, optimiser, [fit.steps] * len(here), gradient)
        trained.append(rows[: len(piece), : spec.num_params])
        left.append(mlps.squares(goals)[: len(piece)])
    return torch.cat(trained), torch.cat(left)


def siren_spec(width: int = _WIDTH) -> NetSpec:
    """The architecture of the networks."""
    return mlp_spec((2, width, width, 1), "sin", omega=_OMEGA)


def pixel_grid(side: int) -> Tensor:
    """The inputs of a SIREN, ``[side^2, 2]``: (row, column) of every pixel."""
    axis = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(axis, axis)


def initial_siren(spec: NetSpec, seed: int, network: int) -> dict[str, Tensor]:
    """Uniform weights (Sitzmann et al. 2020): bound 1 / fan_in, later layers (6 / fan_in)^(1/2) / omega."""
    out, rng = {}, network_generator(seed, network, "initial")
    fan_in = {block.dst: block.sizes[1] for block in spec.blocks}
    for i, block in enumerate(spec.blocks):
        bound = 1 / block.sizes[1] if i == 0 else (6 / block.sizes[1]) ** 0.5 / _OMEGA
        out[block.param] = _uniform(rng, bound, block.shape)
    for param in spec.node_params:
        out[param.param] = _uniform(rng, fan_in[param.group] ** -0.5, param.shape)
    return {name: out[name] for name in spec.params}


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
