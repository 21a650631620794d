"""A zoo of SIRENs, each fitted to one digit: networks as images, labelled with the digit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.zoos.chunks import Chunk, build_in_chunks
from experiments.zoos.digits import digits
from experiments.zoos.draws import network_generator, split_name
from experiments.zoos.fleet import flatten, in_company, train, unflatten
from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.chain import mlp_spec
from graphnfn.functional import run
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

_SIZES, _OMEGA, _SIDE = (2, 32, 32, 1), 30.0, 8


@dataclass(frozen=True, kw_only=True)
class DigitsSirenFit:
    """How every SIREN is fitted: Adam on all pixels of its image; by default to about 43 dB."""

    steps: int = 60
    learning_rate: float = 1e-3


def build_digits_siren(
    folder: str | Path,
    size: int,
    *,
    seed: int = 0,
    fit: DigitsSirenFit | None = None,
    chunk: int = 100,
    progress: bool = True,
) -> Zoo:
    """Fit ``size`` SIRENs 2-32-32-1 with omega 30 to images in random order, again from the start after the last one.

    Network i depends on ``seed``, ``fit`` and i only, to the bit on one machine. All networks of an image are in
    the same split. Call it again after a kill.

    Args:
        folder: of the zoo.
        size: number of networks.
        seed: of everything random.
        fit: steps and learning rate.
        chunk: networks fitted at once.
        progress: show a progress bar.

    Raises:
        ZooError: the folder holds something else.
    """
    fit = fit or DigitsSirenFit()
    about = {
        "builder": "digits-siren",
        "seed": seed,
        "fit": dataclasses.asdict(fit),
        "input": "pixels of an 8x8 grid, both coordinates linspace(-1, 1, 8), order (row, column)",
        "target": "pixel value scaled to [-1, 1]",
    }
    make = partial(_make, seed=seed, fit=fit)
    return build_in_chunks(folder, size, make, chunk=chunk, about=about, progress=progress)


def digits_siren_spec() -> NetSpec:
    """The architecture of the networks."""
    return mlp_spec(_SIZES, "sin", omega=_OMEGA)


def pixel_grid() -> Tensor:
    """The inputs of a SIREN, ``[64, 2]``: (row, column) of every pixel."""
    axis = torch.linspace(-1, 1, _SIDE)
    return torch.cartesian_prod(axis, axis)


def _make(numbers: range, *, seed: int, fit: DigitsSirenFit) -> Chunk:
    data, spec, grid = digits(), digits_siren_spec(), pixel_grid()
    order = np.random.default_rng(seed).permutation(len(data.images))
    images = [int(order[i % len(order)]) for i in numbers]
    targets = torch.stack(in_company([data.images[image].flatten() * 2 - 1 for image in images]))

    def loss(stack: Stack, _: int) -> Tensor:
        return (run(stack, grid.expand(stack.size, -1, -1), per_network=True)[..., 0] - targets).square().mean(1)

    initial = in_company([_initial(spec, network_generator(seed, i, "initial")) for i in numbers])
    rates = torch.full((len(initial),), fit.learning_rate)
    optimiser = StackedOptimiser(["adam"] * len(initial), rates, torch.zeros_like(rates))
    theta = train(spec, flatten(initial), optimiser, [fit.steps] * len(initial), loss)
    psnr = 10 * torch.log10(4 / loss(unflatten(spec, theta), fit.steps).double())
    table = pd.DataFrame(
        {
            "network": list(numbers),
            "image": images,
            "label": data.labels[images].tolist(),
            "psnr": psnr[: len(images)].tolist(),
            "split": [split_name(seed, image) for image in images],
        }
    )
    return Chunk([unflatten(spec, theta[: len(images)])], table)


def _initial(spec: NetSpec, rng: np.random.Generator) -> dict[str, Tensor]:
    """Uniform weights (Sitzmann et al. 2020): bound 1 / fan_in, later layers (6 / fan_in)^(1/2) / omega."""
    out = {}
    fan_in = {block.dst: block.sizes[1] for block in spec.blocks}
    for i, block in enumerate(spec.blocks):
        bound = 1 / block.sizes[1] if i == 0 else (6 / block.sizes[1]) ** 0.5 / _OMEGA
        out[block.param] = _uniform(rng, bound, block.shape)
    for param in spec.node_params:
        out[param.param] = _uniform(rng, fan_in[param.group] ** -0.5, param.shape)
    return {name: out[name] for name in spec.params}


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
