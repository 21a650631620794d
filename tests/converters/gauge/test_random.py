"""Networks of random operators: whatever is claimed holds on their weights."""

from __future__ import annotations

import random

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

B, T, D = 2, 3, 4


class Random(nn.Module):
    """A program drawn by a seed: every step makes a tensor [B, T, D] or [B, T, 2 D] from earlier ones."""

    def __init__(self, seed: int, steps: int):
        super().__init__()
        self.seed, self.steps = seed, steps
        self.weights = nn.ParameterDict()
        self.out = nn.Linear(D, 2)

    def weight(self, *shape: int) -> Tensor:
        """A parameter of the next step that asks for one."""
        name = f"w{self.count}"
        self.count += 1
        if name not in self.weights:
            scale = max(1, shape[-1]) ** -0.5
            self.weights[name] = nn.Parameter(scale * torch.randn(*shape, dtype=torch.float64))
        return self.weights[name]

    def forward(self, x: Tensor) -> Tensor:
        self.count = 0
        draw = random.Random(self.seed)
        values = [F.linear(x, self.weight(D, D))]
        for _ in range(self.steps):
            step = draw.choice(STEPS)
            z = draw.choice(values[-3:])
            y = draw.choice([v for v in values if v.shape == z.shape])
            values.append(self.narrow(step(self, z, y, draw), draw))
        return self.out(torch.stack(values[-2:]).sum(0)).mean(1)

    def narrow(self, z: Tensor, draw: random.Random) -> Tensor:
        """Back to D channels."""
        if z.shape[-1] == D:
            return z
        a, b = z.chunk(2, -1)
        return draw.choice([lambda: a * b, lambda: F.glu(z, -1), lambda: a + b, lambda: z[..., ::2], lambda: F.linear(
            z, self.weight(D, 2 * D))])()  # fmt: skip


def attention(net, z, y, draw):
    q, k, v = (F.linear(s, net.weight(D, D)).view(B, T, 2, D // 2).transpose(1, 2) for s in (z, y, draw.choice([z, y])))
    if draw.random() < 0.3:
        k = k + net.weight(draw.choice([1, 2]), 1, D // 2)
    scores = q @ k.mT
    if draw.random() < 0.3:
        scores = scores + net.weight(2, T, T)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def parameter(net, z, y, draw):
    shape = draw.choice([(D,), (T, D), (1, D), (T, 1), (1,), (B, 1, D)])
    return draw.choice([torch.add, torch.mul, torch.sub])(z, net.weight(*shape))


def constant(net, z, y, draw):
    shape = draw.choice([(D,), (T, 1), (B, T, D), ()])
    number = torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=z.dtype).view(shape)
    return draw.choice([torch.add, torch.mul, torch.div])(z, number)


def joined(net, z, y, draw):
    return draw.choice([lambda: torch.cat([z, y], -1), lambda: torch.cat([z, torch.zeros_like(z)], -1),
                        lambda: torch.cat([z[..., 2:], y, z[..., :2]], -1)])()  # fmt: skip


def layout(net, z, y, draw):
    return draw.choice([
        lambda: z.view(B, T, 2, 2).transpose(2, 3).reshape(B, T, D),
        lambda: z.reshape(B, T * D).view(B, D, T).transpose(1, 2),
        lambda: z.flip(-1), lambda: z.roll(1, -1), lambda: z.roll(1, 1), lambda: z[..., [1, 0, 3, 2]],
        lambda: z.view(B, T, 2, 2).amax(-1).repeat_interleave(2, -1), lambda: z.mean(1, keepdim=True).expand(B, T, D),
        lambda: z.view(B, T, 2, 2).sum(2).repeat(1, 1, 2), lambda: z.sum(-1, keepdim=True) * y,
        lambda: torch.stack([z, y], 2).view(B, T, 2, D).select(2, 1), lambda: z.cumsum(1), lambda: z.cumsum(-1),
        lambda: torch.cat([y[:, :1], z[:, 1:]], 1), lambda: z.unsqueeze(0).movedim(0, 1).squeeze(1),
        lambda: torch.where(z > 0, z, y), lambda: torch.maximum(z, y), lambda: z.masked_fill(y > 1, 0.0),
    ])()  # fmt: skip


def single(net, z, y, draw):
    return draw.choice([
        torch.relu, torch.tanh, torch.sin, F.gelu, torch.abs, torch.square, torch.sign, lambda v: v.clamp(-1, 1),
        lambda v: v.clamp(min=0), lambda v: v.softmax(-1), lambda v: v.softmax(1), lambda v: F.leaky_relu(v, 0.2),
        lambda v: v * v.sigmoid(), lambda v: 1 - v, lambda v: -v, lambda v: v / (1 + v.abs()), torch.cos,
        lambda v: v.clone().relu_(), lambda v: v / v.norm(dim=-1, keepdim=True), lambda v: v * v.mean(-1, keepdim=True),
    ])(z)  # fmt: skip


def norm(net, z, y, draw):
    return draw.choice([
        lambda: F.layer_norm(z, (D,), net.weight(D), net.weight(D)), lambda: F.rms_norm(z, (D,), net.weight(D)),
        lambda: F.group_norm(z.transpose(1, 2), 2, net.weight(D)).transpose(1, 2),
        lambda: F.layer_norm(z.view(B, T, 2, 2), (2,), net.weight(2)).flatten(2),
    ])()  # fmt: skip


def convolution(net, z, y, draw):
    groups = draw.choice([1, 2, 4])
    x = z.transpose(1, 2)
    if draw.random() < 0.3:
        return F.conv_transpose1d(x, net.weight(D, D // groups, 1), net.weight(D), groups=groups).transpose(1, 2)
    return F.conv1d(x, net.weight(D, D // groups, 3), net.weight(D), padding=1, groups=groups).transpose(1, 2)


def product(net, z, y, draw):
    return draw.choice([
        lambda: z * y, lambda: z + y, lambda: z - y, lambda: torch.einsum("btd,bsd,bse->bte", z, y, y),
        lambda: torch.bmm(z @ y.mT, z), lambda: torch.einsum("btd,hde->bthe", z, net.weight(2, D, 2)).flatten(2),
        lambda: F.bilinear(z, y, net.weight(D, D, D)),
        lambda: torch.einsum("bthd,hde->bthe", z.view(B, T, 2, 2), net.weight(2, 2, 2)).flatten(2),
        lambda: z * torch.sigmoid(y.mean(-1, keepdim=True)),
    ])()  # fmt: skip


def linear(net, z, y, draw):
    wide = draw.choice([D, 2 * D])
    bias = net.weight(wide) if draw.random() < 0.5 else None
    return F.linear(z, net.weight(wide, D), bias)


STEPS = [attention, parameter, constant, joined, layout, layout, single, single, norm, convolution, product, linear,
         linear]  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9), steps=st.integers(1, 7))
@example(seed=50012, steps=5)  # places of one neuron in several groups of a grouped convolution
@example(seed=50506, steps=4)  # a parameter along the batch in front of a convolution
@example(seed=31721, steps=3)  # a view that cuts across neurons at several positions
@example(seed=20145, steps=4)  # bundles that are bound to each other hold different neurons
@example(seed=20014, steps=6)  # a neuron that sits twice in every tensor, here and there in another order
def test_claims_hold_on_random_programs(seed, steps, find_law):
    torch.manual_seed(seed)
    x = torch.randn(B, T, D, dtype=torch.float64)
    net = Random(seed, steps).double()
    net(x)  # makes the weights
    found = find_law(net, x)
    assert max(found.errors().values()) <= 1e-7
