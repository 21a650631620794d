"""Small networks of many kinds, as traced graphs in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters import convert
from graphnfn import NeuralGraph


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.head(torch.relu(self.depthwise(x)).mean((2, 3)))


class Llama(nn.Module):
    """Grouped-query attention with rotary positions, RMS norms and a gated MLP; embeddings are tied."""

    def __init__(self, width: int = 8, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.depth = heads, groups, 4
        self.embed = nn.Embedding(7, width)
        self.query = nn.Linear(width, heads * 4, bias=False)
        self.key, self.value = (nn.Linear(width, groups * 4, bias=False) for _ in range(2))
        self.out = nn.Linear(heads * 4, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 10, bias=False) for _ in range(2))
        self.down = nn.Linear(10, width, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.embed.weight
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-b, a], -1) * self.angles.sin()

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, 4).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm1(x)
        q, k = self.rotate(self.split(self.query(y), self.heads)), self.rotate(self.split(self.key(y), self.groups))
        v = self.split(self.value(y), self.groups)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.lstm(x)
        return self.head(y[:, -1]) + self.head(h[0])


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5)
        self.down, self.up = nn.Linear(6, 3, bias=False), nn.Linear(3, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.base(x) + self.up(self.down(x)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Experts(nn.Module):
    """The two best of four experts, each a module."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(6, 4), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.gate(x).softmax(-1).topk(2, -1)
        share = torch.zeros(len(x), 4, dtype=x.dtype).scatter(1, chosen, best)
        return self.head(torch.tanh(sum(e(x) * share[:, k, None] for k, e in enumerate(self.experts))))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "residual": (Residual, lambda: (torch.randn(2, 2, 6, 6),)),
    "grouped": (Grouped, lambda: (torch.randn(2, 2, 5, 5),)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True),
        lambda: (torch.randn(2, 4, 8),),
    ),
    "llama": (Llama, lambda: (torch.randint(0, 7, (2, 5)),)),
    "recurrent": (Recurrent, lambda: (torch.randn(2, 4, 3),)),
    "experts": (Experts, lambda: (torch.randn(8, 6),)),
    "lowrank": (LowRank, lambda: (torch.randn(4, 6),)),
}


@lru_cache
def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A module with weights that all matter, in float64, and inputs for it."""
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    module = make().double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn_like(p)
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer))
            if key.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return module, tuple(x.double() if x.is_floating_point() else x for x in inputs())


@lru_cache
def traced(name: str) -> NeuralGraph:
    module, inputs = network(name)
    return convert(module, example_input=inputs, verify=False)


@pytest.fixture(params=list(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def module(name: str) -> nn.Module:
    return network(name)[0]


@pytest.fixture
def inputs(name: str) -> tuple[Tensor, ...]:
    return network(name)[1]


@pytest.fixture
def graph(name: str) -> NeuralGraph:
    return traced(name)


@pytest.fixture
def all_graphs() -> list[NeuralGraph]:
    return [traced(name) for name in NETWORKS]
