"""The pictures that networks of images compute, and what can happen to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from experiments.zoos.siren import pixel_grid as pixel_grid
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack


def render(graph: NeuralGraph, grid: Tensor) -> Tensor:
    """The pictures that networks compute, with pixels from 0 to 1 where outputs are from -1 to 1.

    ``picture = (f(grid) + 1) / 2``, differentiable in the weights.

    Args:
        graph: networks with 2 inputs and one output per colour.
        grid: see :func:`experiments.zoos.siren.pixel_grid`, ``[side^2, 2]``.

    Shape: ``[networks, colours, side, side]``.

    Raises:
        SpecError: the networks take other inputs.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 4, 3], "sin"), networks=5, dtype=torch.float32)
        >>> render(graph, pixel_grid(7)).shape
        torch.Size([5, 3, 7, 7])
    """
    return in_order(graph, [rendered(stack, grid) for stack in graph.stacks()])


def rendered(stack: Stack, grid: Tensor) -> Tensor:
    """The pictures of the networks of a stack, see :func:`render`."""
    side = round(len(grid) ** 0.5)
    return run(stack, grid).transpose(1, 2).unflatten(2, (side, side)) / 2 + 0.5


def in_order(graph: NeuralGraph, rows: Sequence[Tensor]) -> Tensor:
    """What was found for each stack of a graph, ``[B, ...]`` each, in the order of its networks."""
    found = torch.cat(list(rows))
    return found[torch.cat(graph.members()).argsort().to(found.device)]


def dilated(pictures: np.ndarray) -> np.ndarray:
    """The largest pixel among the 3 x 3 around every pixel, ``[..., side, side]``.

    Example:
        >>> int(dilated(np.eye(1, 16, 5).reshape(1, 4, 4)).sum())
        9
    """
    return ndimage.grey_dilation(pictures, size=(1,) * (pictures.ndim - 2) + (3, 3))


def contrasted(pictures: np.ndarray) -> np.ndarray:
    """Twice the distance of every pixel to the mean of its picture, cut off at 0 and 1.

    Example:
        >>> contrasted(np.array([[[0.5, 0.5], [0.25, 0.75]]])).tolist()
        [[[0.5, 0.5], [0.0, 1.0]]]
    """
    mean = pictures.mean((-1, -2), keepdims=True)
    return np.clip(mean + 2 * (pictures - mean), 0.0, 1.0)


OPERATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"identity": lambda pictures: pictures, "dilate": dilated, "contrast": contrasted}
)
"""What can happen to the pictures ``[networks, colours, side, side]`` of the original networks."""
