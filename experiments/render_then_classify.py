"""The reference for networks of images: render them, and let an ordinary CNN look at the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.errors import ExperimentError
from experiments.pictures import in_order, pixel_grid, rendered
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.traced_stack import AnyStack, TracedStack

TOGETHER = 256
"""Networks that are rendered at once: memory is that of their pixels times their width."""


@dataclass(frozen=True)
class Rendered(Stack):
    """A stack with the pictures of its networks, ``[B, colours, side, side]``."""

    pictures: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> Rendered:
        """The stack with a function applied to every tensor."""
        blocks = tuple(function(b) for b in self.blocks)
        return Rendered(self.spec, function(self.nodes), blocks, function(self.pictures))


class RenderThenClassify(nn.Module):
    """A CNN on the pictures that networks compute, ``CNN(render(G))``; what is trained is the CNN.

    Two convolutions with batch norm and pooling, two dense layers. In training the pictures of a batch are moved by up
    to two pixels, zeros come in. Whatever leaves the function as it is leaves the prediction as it is.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        side: pixels of a picture in a row and in a column.
        channels: of the two convolutions.
        hidden: width of the first dense layer.
        dropout: before both dense layers.

    Shape: ``[networks, out]``.

    Raises:
        ExperimentError: the networks are not those of images, or pictures are too small to pool twice.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 3], "sin")
        >>> model = RenderThenClassify(specs=[spec], out=10, side=8)
        >>> model(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 10])
    """

    grid: Tensor

    def __init__(
        self,
        *,
        specs: Sequence[NetSpec],
        out: int,
        side: int | None,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        ends = {(spec.groups[0].size, spec.groups[-1].size) for spec in specs}
        colours = next(iter(ends))[1]
        if ends != {(2, colours)}:
            raise ExperimentError(
                "render_then_classify reads networks of images, with 2 inputs and equally many outputs; these have "
                f"{sorted(ends)}"
            )
        if side is None or side < 4:
            raise ExperimentError(f"got pictures of {side} pixels a side; expected 4 or more: give zoo.side, e.g. 28")
        one, two = channels
        self.register_buffer("grid", pixel_grid(side), persistent=False)
        self.look = nn.Sequential(
            nn.BatchNorm2d(colours, affine=False), *_stage(colours, one), *_stage(one, two), nn.Flatten()
        )
        self.predict = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(two * (side // 4) ** 2, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, out),
        )  # fmt: skip

    def forward(self, graph: NeuralGraph) -> Tensor:
        pictures = in_order(graph, [self._seen(stack) for stack in graph.stacks()])
        if self.training:
            down, right = torch.randint(5, (2,)).tolist()
            height, width = pictures.shape[2:]
            pictures = F.pad(pictures, (2, 2, 2, 2))[..., down : down + height, right : right + width]
        return self.predict(self.look(pictures))

    def prepare(self, graph: NeuralGraph) -> NeuralGraph:
        """The networks with their pictures, made once for networks that are looked at often."""
        return graph.map_stacks(self._rendered)

    def _rendered(self, stack: AnyStack) -> AnyStack:
        if isinstance(stack, TracedStack):
            return stack
        parts = [self._seen(stack.take(slice(k, k + TOGETHER))) for k in range(0, stack.size, TOGETHER)]
        return Rendered(stack.spec, stack.nodes, stack.blocks, torch.cat(parts))

    @torch.no_grad()
    def _seen(self, stack: Stack) -> Tensor:
        return stack.pictures if isinstance(stack, Rendered) else rendered(stack, self.grid)


def _stage(into: int, out: int) -> list[nn.Module]:
    conv = nn.Conv2d(into, out, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
