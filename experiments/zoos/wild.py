"""A zoo of CNNs of many architectures: a CNN Wild Park (Kofinas et al. 2024, arXiv 2403.12143) for a CPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd
import torch

from experiments.zoos.builder import Builder, standardised
from experiments.zoos.chunks import Chunk
from experiments.zoos.classifiers import Group, train_classifiers
from experiments.zoos.draws import network_generator
from experiments.zoos.images import Images
from experiments.zoos.plans import CNNRanges, draw_plan
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder
from graphnfn.spec import Block, ConvFacts, NetSpec, SpatialOp
from graphnfn.stack import Stack

_CLASSES, _EPS, _HALVING = 10, 1e-5, 1


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A CNN: padded convolutions, the second one with stride 2, then global average pool and a dense layer.

    Args:
        widths: channels of every convolution.
        kernel: side of the kernels.
        activation: behind every convolution.
        norm: whether a batch norm stands between convolution and activation.
        skip: whether every convolution from the third on also adds a 1 x 1 convolution of the channels two
            activations before its own.
    """

    widths: tuple[int, ...]
    kernel: int
    activation: str
    norm: bool
    skip: bool

    def spec(self, shape: tuple[int, ...]) -> NetSpec:
        """The networks for images of a shape ``(1, h, w)``.

        Example:
            >>> kind = Architecture(widths=(4, 8, 6), kernel=5, activation="gelu", norm=True, skip=True)
            >>> [block.param for block in kind.spec((1, 8, 8)).blocks]
            ['conv0.weight', 'conv1.weight', 'conv2.weight', 'skip2.weight', 'dense.weight']
        """
        chain = ChainBuilder(shape[0], shape)
        for i, out in enumerate(self.widths):
            bias = None if self.norm else f"conv{i}.bias"
            stride, padding = (_stride(i),) * 2, (self.kernel // 2,) * 2
            shape_here = (out, chain.width, self.kernel, self.kernel)
            chain.conv(f"conv{i}.weight", shape_here, bias=bias, stride=stride, padding=padding)
            if self.norm:
                fields = ("weight", "bias", "mean", "var")
                chain.norm({f"norm_{field}": f"norm{i}.{field}" for field in fields}, _EPS)
            chain.activation(Activation(self.activation))
        chain.spatial(SpatialOp("global_avg_pool"))
        chain.linear("dense.weight", (_CLASSES, chain.width), bias="dense.bias")
        return self._with_skips(chain.build())

    def _with_skips(self, spec: NetSpec) -> NetSpec:
        blocks = []
        for i, block in enumerate(spec.blocks):
            blocks.append(block)
            if self.skip and 2 <= i < len(self.widths):
                shape = (self.widths[i], self.widths[i - 2], 1, 1)
                facts = ConvFacts((_stride(i - 1) * _stride(i),) * 2, (0, 0), (1, 1))
                blocks.append(
                    Block(
                        param=f"skip{i}.weight", src=spec.blocks[i - 2].dst, dst=block.dst, shape=shape, view=shape,
                        dims=(0, 1, 2, 3), kind="conv", conv=facts,
                    )
                )  # fmt: skip
        return dataclasses.replace(spec, blocks=tuple(blocks))

    def facts(self) -> dict[str, object]:
        """Columns of the table (the activation is a hyper-parameter)."""
        return {
            "depth": len(self.widths),
            "width": sum(self.widths) / len(self.widths),
            "widths": "-".join(map(str, self.widths)),
            "kernel": self.kernel,
            "norm": self.norm,
            "skips": max(len(self.widths) - 2, 0) if self.skip else 0,
        }


def _stride(convolution: int) -> int:
    return 2 if convolution == _HALVING else 1


@dataclass(frozen=True, kw_only=True)
class WildZoo(Builder):
    """A builder of CNNs of drawn architectures with drawn hyper-parameters.

    Args:
        data: name of the images, see :mod:`experiments.zoos.images`.
        together: consecutive networks that share an architecture; they are trained at once.
        depths: numbers of convolutions to choose from.
        widths: numbers of channels to choose from, for every convolution.
        kernels: sides of kernels to choose from.
        norms: whether there may be batch norms.
        skips: whether there may be shortcuts.
        ranges: of the hyper-parameters.
    """

    kind = "wild"
    chunk = 100
    together: int = 20
    depths: tuple[int, ...] = (2, 3, 4, 5)
    widths: tuple[int, ...] = (4, 6, 8, 12, 16)
    kernels: tuple[int, ...] = (3, 5)
    norms: tuple[bool, ...] = (False, True)
    skips: tuple[bool, ...] = (False, True)
    ranges: CNNRanges = CNNRanges(
        activation=("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"), init_scale=(0.7, 2.5), steps=(40, 400)
    )

    def architecture(self, number: int, seed: int) -> Architecture:
        """The architecture of the networks from ``number * together`` on.

        Example:
            >>> DIGITS_WILD.architecture(3, 0) == DIGITS_WILD.architecture(3, 0)
            True
        """
        rng = network_generator(seed, number, "architecture")
        depth = int(rng.choice(self.depths))
        return Architecture(
            widths=tuple(int(width) for width in rng.choice(self.widths, size=depth)),
            kernel=int(rng.choice(self.kernels)),
            activation=str(rng.choice(self.ranges.activation)),
            norm=bool(rng.choice(self.norms)),
            skip=bool(rng.choice(self.skips)) and depth > 2,
        )

    def about(self, images: Images) -> dict[str, Any]:
        settings = dataclasses.asdict(self)
        settings.pop("data")
        return {**settings, "input": standardised(images)}

    def make(self, numbers: range, images: Images, seed: int) -> Chunk:
        """Column ``architecture`` of the table counts architectures.

        Networks of one are always trained together, all of them: rounding may depend on their number.
        """
        stacks: dict[NetSpec, list[Stack]] = {}  # two numbers may have drawn the same architecture
        tables = []
        for number, members in groupby(numbers, key=lambda i: i // self.together):
            kind = self.architecture(number, seed)
            spec = kind.spec((1, *images.images.shape[1:]))
            ranges = dataclasses.replace(self.ranges, activation=(kind.activation,))
            first = number * self.together
            group = Group(spec, [draw_plan(first + k, seed, ranges) for k in range(self.together)], kind.facts())
            made = train_classifiers([group], images, seed=seed, batch=self.ranges.batch)
            wanted = [i - first for i in members]
            stacks.setdefault(spec, []).append(made.stacks[0].take(torch.tensor(wanted)))
            tables.append(made.table.iloc[wanted].assign(spec=list(stacks).index(spec), architecture=number))
        return Chunk([Stack.join(parts) for parts in stacks.values()], pd.concat(tables, ignore_index=True))


DIGITS_WILD = WildZoo(data="digits")
