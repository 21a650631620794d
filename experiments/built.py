"""Networks built in code, with random weights, in the shapes of well-known ones: for the survey of checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.architectures import Architecture


def _normed(into: int, out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and a batch norm; weights by He et al. 2015, eq. 10, so that signals get through."""
    conv = nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, nn.BatchNorm2d(out)]


class _Residual(nn.Module):
    """A branch and a shortcut, which is a convolution where shapes change."""

    def __init__(self, branch: list[nn.Module], into: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        same = stride == 1 and into == out
        self.shortcut = nn.Identity() if same else nn.Sequential(*_normed(into, out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class ResNet18(Architecture):
    """He et al. 2016, table 1: 18 layers, basic blocks."""

    inputs = ((1, 3, 64, 64),)
    depths, expansion = (2, 2, 2, 2), 1

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = [*_normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for k, depth in enumerate(self.depths):
            for block in range(depth):
                stride, inner = (2 if k and not block else 1), 64 * 2**k
                stages.append(_Residual(self._branch(width, inner, stride), width, inner * self.expansion, stride))
                width = inner * self.expansion
        self.body, self.head = nn.Sequential(*stages), nn.Linear(width, 1000)

    def _branch(self, into: int, inner: int, stride: int) -> list[nn.Module]:
        return [*_normed(into, inner, 3, stride), nn.ReLU(), *_normed(inner, inner, 3)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ResNet50(ResNet18):
    """He et al. 2016, table 1: 50 layers, bottlenecks; 25.6 million parameters."""

    depths, expansion = (3, 4, 6, 3), 4

    def _branch(self, into: int, inner: int, stride: int) -> list[nn.Module]:
        first, last = _normed(into, inner, 1), _normed(inner, 4 * inner, 1)
        return [*first, nn.ReLU(), *_normed(inner, inner, 3, stride), nn.ReLU(), *last]


class _Inverted(nn.Module):
    def __init__(self, into: int, out: int, stride: int, wider: int) -> None:
        super().__init__()
        inner = into * wider
        first = [*_normed(into, inner, 1), nn.ReLU6()] if wider > 1 else []
        self.branch = nn.Sequential(
            *first, *_normed(inner, inner, 3, stride, inner), nn.ReLU6(), *_normed(inner, out, 1)
        )
        self.adds = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.adds else self.branch(x)


class MobileNetV2(Architecture):
    """Sandler et al. 2018, table 2: inverted residuals with depthwise convolutions and ReLU6."""

    inputs = ((1, 3, 64, 64),)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = [*_normed(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for wider, out, depth, stride in self.table:
            for block in range(depth):
                stages.append(_Inverted(width, out, 1 if block else stride, wider))
                width = out
        self.body = nn.Sequential(*stages, *_normed(width, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Encoder(Architecture):
    """nn.TransformerEncoder between linear layers."""

    inputs = ((2, 6, 32),)

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.read, self.write = nn.Linear(32, 64), nn.Linear(64, 10)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.body(self.read(x)))


class _Block(nn.Module):
    """A layer of GPT-2: norms first, one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.attend(self.ln_1(x)).split(width, -1)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, width)
        x = x + self.merge(y)
        return x + self.narrow(F.gelu(self.wide(self.ln_2(x)), approximate="tanh"))


class GPT2(Architecture):
    """Radford et al. 2019, small: 12 layers of width 768, tied embeddings; 124 million parameters."""

    inputs = ((1, 6),)
    tokens = 50257

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.layers, self.ln_f = nn.ModuleList(_Block(768, 12) for _ in range(12)), nn.LayerNorm(768)
        self.head = nn.Linear(768, 50257, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln_f(x))


class _LlamaLayer(nn.Module):
    def __init__(self, width: int, heads: int, keys: int) -> None:
        super().__init__()
        self.heads, self.keys, self.size = heads, keys, width // heads
        self.norm_1, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.merge = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key, self.value = (nn.Linear(width, keys * self.size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.size)).transpose(1, 2)

    def _turn(self, x: Tensor) -> Tensor:
        """Rotary positions."""
        speeds = 1e4 ** -torch.linspace(0, 1, self.size // 2 + 1, dtype=x.dtype, device=x.device)[:-1]
        angles = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)[:, None] * speeds
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(x)
        q, k = self._turn(self._split(self.query(y), self.heads)), self._turn(self._split(self.key(y), self.keys))
        v = self._split(self.value(y), self.keys)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.merge(y.transpose(1, 2).flatten(2))
        y = self.norm_2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(Architecture):
    """Touvron et al. 2023 with grouped queries: RMS norms, rotary positions, SwiGLU; 8 heads on 2 keys."""

    inputs = ((2, 6),)
    tokens = 500

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(500, 128), nn.Linear(128, 500, bias=False)
        self.layers, self.norm = nn.ModuleList(_LlamaLayer(128, 8, 2) for _ in range(2)), nn.RMSNorm(128)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class TwoWayLSTM(Architecture):
    """nn.LSTM, two layers, both directions."""

    inputs = ((2, 5, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, 2, batch_first=True, bidirectional=True), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Experts(Architecture):
    """A mixture of eight experts with routing to the best two (Shazeer et al. 2017, eq. 3 to 5, without noise)."""

    inputs = ((16, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(24, 8), nn.Linear(24, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.gate(x).topk(2, -1)
        share = torch.zeros(len(x), 8, dtype=x.dtype, device=x.device).scatter(1, chosen, best.softmax(-1))
        y = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head(x + (share[..., None] * y).sum(1))


class UNet(Architecture):
    """Ronneberger et al. 2015, figure 1, narrower: transposed convolutions, and skips by concatenation."""

    inputs = ((1, 1, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2, self.low = self._pair(1, 16), self._pair(16, 32), self._pair(32, 64)
        self.up_2, self.up_1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join_2, self.join_1, self.head = self._pair(64, 32), self._pair(32, 16), nn.Conv2d(16, 2, 1)

    @staticmethod
    def _pair(into: int, out: int) -> nn.Sequential:
        layers = (nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU())
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down_1(x)
        b = self.down_2(F.max_pool2d(a, 2))
        c = self.low(F.max_pool2d(b, 2))
        b = self.join_2(torch.cat([b, self.up_2(c)], 1))
        return self.head(self.join_1(torch.cat([a, self.up_1(b)], 1)))
