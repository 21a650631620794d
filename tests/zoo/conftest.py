"""Small zoos for the tests of this folder."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack


def _stack(spec: NetSpec, count: int) -> Stack:
    return Stack.pack(spec, {name: torch.randn(count, *shape) for name, shape in spec.params.items()})


@pytest.fixture
def same_shapes() -> list[Stack]:
    """Two specs with equal parameters: their stacks are shared on disk."""
    return [_stack(small_cnn_spec([1, 3, 2], 4, kind), count) for kind, count in (("relu", 5), ("tanh", 4))]


@pytest.fixture
def other_shapes() -> list[Stack]:
    """Two specs with different parameters: each has its own stacks on disk."""
    return [_stack(mlp_spec([2, 3, 1], "sin"), 5), _stack(mlp_spec([2, 4, 4, 1], "relu"), 4)]


@pytest.fixture
def table() -> pd.DataFrame:
    """Nine rows; the networks of the two stacks alternate irregularly."""
    return pd.DataFrame({"score": torch.linspace(0, 1, 9).tolist(), "spec": [1, 0, 0, 1, 0, 1, 1, 0, 0]})
