"""Editing in function space: change the weights of an image's network so that it renders a changed image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import baselines
from experiments.errors import ExperimentError
from experiments.pictures import OPERATIONS, pixel_grid, render
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

CHUNK = 256
"""Networks rendered at once where labels are made."""


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """Edit a network so that it renders its own picture after an operation, by the squared error of pixels.

    The labels hold the picture of the network as it is and the wanted one; nothing but the zoo is needed. Measures:
    ``mse`` over pixels from 0 to 1, and ``gain``, the share of the error of leaving the networks alone that the edit
    removes, ``1 - mse(edited) / mse(as it is)``; ``identity`` has the first only.

    Args:
        operation: one of :data:`OPERATIONS`.
        side: pixels in a row and in a column.
    """

    operation: str
    side: int | None
    out: int = 0

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ExperimentError(f"unknown operation {self.operation!r}; known: {', '.join(OPERATIONS)}")
        if self.side is None or self.side < 1:
            raise ExperimentError(
                f"got {self.side} pixels a side for task {self.operation!r}; how large the images are that networks "
                "stand for is not in their weights: give zoo.side, such as 28"
            )

    @property
    def column(self) -> str:
        return self.operation

    @property
    def measures(self) -> tuple[str, ...]:
        return ("mse",) if self.operation == "identity" else ("mse", "gain")

    @property
    def grid(self) -> Tensor:
        """Where the networks are evaluated."""
        assert self.side is not None
        return pixel_grid(self.side)

    def on(self, zoo: Zoo) -> EditTask:
        """Check that the networks are those of images.

        Raises:
            ExperimentError: they do not map 2 numbers to colours.
        """
        ends = {(spec.groups[0].size, spec.groups[-1].size) for spec in zoo.specs}
        if len(ends) > 1 or next(iter(ends))[0] != 2:
            raise ExperimentError(
                f"task {self.operation!r} edits networks of images, with 2 inputs and equally many outputs; this zoo "
                f"has inputs and outputs {sorted(ends)}"
            )
        return self

    def labels(self, zoo: Zoo, rows: Tensor) -> Tensor:
        """The pictures as they are and as they should be, ``[G, 2, colours, side, side]``."""
        with torch.no_grad():
            still = torch.cat([render(zoo.batch(part), self.grid) for part in rows.split(CHUNK)])
        wanted = torch.from_numpy(OPERATIONS[self.operation](still.numpy())).to(still.dtype)
        return torch.stack([still, wanted], 1)

    def prepare(self, labels: Tensor) -> EditTask:
        return self

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs, labels[:, 1])

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        still, edited = (float(part.mean()) for part in self.pairs(prediction, labels))
        found = {"mse": edited, "gain": 1 - edited / still if still else 0.0}
        return {name: found[name] for name in self.measures}

    def pairs(self, prediction: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the network as it is, and after the edit, ``[G]`` each."""
        still, wanted = labels.double().unbind(1)
        return _error(still, wanted), _error(prediction.double(), wanted)


def _error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


class Edited(nn.Module):
    """The pictures of edited networks, ``mean_k render(editor_k(G))``.

    More than one output is the averaging called OCE (arXiv 2602.01083), as read here: a metanetwork gives k sets of
    weights, and the edited function is the mean of the k functions, which is one network of k times the width. Here
    every set has an editor of its own; all train together, on the mean. It is equivariant if the editors are.

    Args:
        editor: makes one editor, which maps networks to networks.
        grid: where the networks are evaluated, ``[side^2, 2]``.
        outputs: k.

    Shape: ``[networks, colours, side, side]``.

    Raises:
        ExperimentError: less than one output.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 4, 1], "sin"), networks=5, dtype=torch.float32)
        >>> torch.equal(Edited(nn.Identity, pixel_grid(7), outputs=2)(graph), render(graph, pixel_grid(7)))
        True
    """

    grid: Tensor

    def __init__(self, editor: Callable[[], nn.Module], grid: Tensor, *, outputs: int = 1) -> None:
        super().__init__()
        if outputs < 1:
            raise ExperimentError(f"got model.outputs={outputs}; expected 1 or more")
        self.editors = nn.ModuleList(editor() for _ in range(outputs))
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, graph: NeuralGraph) -> Tensor:
        pictures = [render(editor(graph), self.grid) for editor in self.editors]
        return torch.stack(pictures).mean(0)


def graph_editor(
    *,
    specs: Sequence[NetSpec],
    width: int,
    steps: int = 1,
    **settings: Any,
) -> nn.Module:
    """Our editor; with several steps, the next one edits what the last one made.

    Args:
        specs: architectures that it shall read.
        width: channels of the features.
        steps: editors, one after the other.
        settings: of :class:`~graphnfn.models.MetaNetConfig`.
    """
    config = MetaNetConfig(width=width, **{"head": "edit", **settings})
    return nn.Sequential(*(GraphMetaNet(config, specs=specs) for _ in range(steps)))


class ConstantEditor(nn.Module):
    """The same edit whatever the network: the trivial reference of all editors.

    ``W_l <- (1 + a_l) W_l``, ``b_l <- (1 + c_l) b_l``, the first weights also per input, and an offset at the outputs.
    It does not read weights; that it multiplies biases is not equivariant to half turns.

    Args:
        specs: one architecture of an MLP.

    Raises:
        ExperimentError: several architectures.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> sum(p.numel() for p in ConstantEditor(specs=[mlp_spec([2, 8, 8, 1], "sin")]).parameters())
        9
    """

    def __init__(self, *, specs: Sequence[NetSpec]) -> None:
        super().__init__()
        if len(set(specs)) != 1:
            raise ExperimentError(f"the constant editor reads one architecture; got {len(set(specs))}")
        groups = specs[0].groups
        self.weights = nn.Parameter(torch.zeros(len(groups) - 1))
        self.biases = nn.Parameter(torch.zeros(len(groups) - 1))
        self.inputs = nn.Parameter(torch.zeros(groups[0].size))
        self.offset = nn.Parameter(torch.zeros(groups[-1].size))

    def forward(self, graph: NeuralGraph) -> NeuralGraph:
        return graph.map_stacks(self._edited)

    def _edited(self, stack: Stack) -> Stack:
        sizes = [group.size for group in stack.spec.groups]
        blocks = [w * (1 + a) for w, a in zip(stack.blocks, self.weights, strict=True)]
        blocks[0] = blocks[0] * (1 + self.inputs)[:, None]
        rows = [stack.nodes.new_zeros(sizes[0]), *(c.expand(n) for c, n in zip(self.biases, sizes[1:], strict=True))]
        bias = stack.nodes[..., 0] * (1 + torch.cat(rows))
        bias = bias + F.pad(self.offset, (sum(sizes[:-1]), 0))
        return Stack(stack.spec, torch.cat([bias[..., None], stack.nodes[..., 1:]], -1), tuple(blocks))


def baseline_editor(*, specs: Sequence[NetSpec], name: str, **overrides: Any) -> nn.Module:
    """A baseline by name."""
    return baselines.build_editor(name, specs=specs, **overrides)
