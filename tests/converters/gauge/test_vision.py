"""Convolutional networks of the common families: all their symmetry is found, and what is found holds."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def conv(c, o, k=3, act=nn.ReLU, **more):
    """Convolution, batch norm, activation."""
    return nn.Sequential(nn.Conv2d(c, o, k, padding=k // 2, bias=False, **more), nn.BatchNorm2d(o), act())


def head(c, out=3):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, out))


class Basic(nn.Module):
    def __init__(self, c, o, stride=1):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(c, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 else None

    def forward(self, x):
        out = self.act(self.b1(self.c1(x)))
        out = self.b2(self.c2(out))
        out += x if self.down is None else self.down(x)
        return self.act(out)


def test_resnet(assert_law):
    net = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), Basic(8, 8), Basic(8, 12, 2), head(12))
    assert_law(net, IMAGE, [
        "8 permutation nonzero nonzero positive",  # the stream, and what two norms write to it
        "12 permutation nonzero nonzero positive",
        "8 permutation nonzero positive",  # inside a block: before and after its norm
        "12 permutation nonzero positive",
    ])  # fmt: skip


class Bottleneck(nn.Module):
    def __init__(self, c, mid, groups=1):
        super().__init__()
        self.c1, self.c2 = conv(c, mid, 1), conv(mid, mid, 3, groups=groups)
        self.c3 = conv(mid, c, 1, nn.Identity)

    def forward(self, x):
        return F.relu(self.c3(self.c2(self.c1(x))) + x)


def test_bottleneck(assert_law):
    net = nn.Sequential(conv(3, 8), Bottleneck(8, 4), head(8))
    assert_law(net, IMAGE, ["8 permutation nonzero nonzero positive", "2 x 4 permutation nonzero positive"])


def test_resnext_keeps_groups_together(assert_law):
    net = nn.Sequential(conv(3, 8), Bottleneck(8, 6, groups=3), head(8))
    assert_law(net, IMAGE, [
        "8 permutation nonzero nonzero positive", "6 x 2 permutation nonzero positive", "family of 3 bundles [2, 2]",
    ])  # fmt: skip


class Inverted(nn.Module):
    """MobileNet: expand, depthwise, squeeze and excite, project, add."""

    def __init__(self, c, wide, act, gate=None):
        super().__init__()
        self.expand, self.deep = conv(c, wide, 1, act), conv(wide, wide, 3, act, groups=wide)
        self.s1, self.s2 = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project, self.gate = conv(wide, c, 1, nn.Identity), gate

    def forward(self, x):
        y = self.deep(self.expand(x))
        if self.gate is not None:
            y = y * self.gate(self.s2(F.relu(self.s1(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y)


def test_mobilenet_v2(assert_law):
    net = nn.Sequential(conv(3, 8), Inverted(8, 16, nn.ReLU6), head(8))
    assert_law(net, IMAGE, ["8 permutation nonzero nonzero positive", "16 permutation nonzero nonzero"])


def test_mobilenet_v3(assert_law):
    blocks = Inverted(8, 16, nn.Hardswish, F.hardsigmoid), Inverted(8, 16, nn.ReLU, F.hardsigmoid)
    assert_law(nn.Sequential(conv(3, 8), *blocks, head(8)), IMAGE, [
        "8 permutation nonzero nonzero nonzero positive",
        "16 permutation nonzero nonzero",
        "16 permutation nonzero nonzero positive positive",
        "2 x 4 permutation positive",
    ])  # fmt: skip


def test_efficientnet(assert_law):
    net = nn.Sequential(conv(3, 6, act=nn.SiLU), Inverted(6, 12, nn.SiLU, torch.sigmoid), head(6))
    assert_law(net, IMAGE, [
        "6 permutation nonzero nonzero", "12 permutation nonzero nonzero", "4 permutation positive"])  # fmt: skip


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.c0 = nn.Conv2d(3, 6, 3, padding=1)
        self.b1, self.c1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.b2, self.c2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1, bias=False)
        self.b3, self.out = nn.BatchNorm2d(14), nn.Linear(14, 3)

    def forward(self, x):
        x = self.c0(x)
        x = torch.cat([x, self.c1(F.relu(self.b1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.b2(x)))], 1)
        return self.out(F.relu(self.b3(x)).mean((2, 3)))


def test_densenet(assert_law):
    assert_law(Dense(), IMAGE, [
        "6 permutation nonzero positive positive positive",
        "4 permutation nonzero positive positive",
        "4 permutation nonzero positive",
    ])  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.join, self.out = nn.Conv2d(12, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.leaky_relu(self.up(b), 0.1)
        return self.out(torch.tanh(self.join(torch.cat([a, c], 1))))


def test_unet(assert_law):
    assert_law(UNet(), IMAGE, ["2 x 6 permutation positive", "8 permutation positive", "5 permutation sign"])


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.a, self.b1 = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 1)
        self.b2, self.pool = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.norm, self.out = nn.BatchNorm2d(11), nn.Conv2d(11, 3, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = [self.a(x), self.b2(F.relu(self.b1(x))), self.pool(F.avg_pool2d(x, 3, 1, 1))]
        return self.out(F.relu(self.norm(torch.cat(y, dim=1))))


def test_inception(assert_law):
    assert_law(Inception(), IMAGE, [
        "6 permutation positive", "3 permutation positive", *(f"{n} permutation nonzero positive" for n in (4, 5, 2)),
    ])  # fmt: skip


class Shuffle(nn.Module):
    """ShuffleNet: grouped, shuffled, depthwise, grouped."""

    def __init__(self):
        super().__init__()
        self.first, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)
        self.deep, self.b, self.out = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(F.relu(self.first(x)))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.out(F.relu(self.b(F.relu(self.deep(F.relu(x))))).mean((2, 3)))


def test_channel_shuffle(assert_law):
    """Channels between the grouped convolutions come from one of two groups and go to one of two.

    The groups as a whole could be exchanged, too, twofold; a law has no words for crossing exchanges.
    """
    assert_law(Shuffle(), IMAGE, ["4 x 2 permutation positive positive", "4 x 4 permutation positive"])


class ConvNext(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.deep, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.a, self.b, self.gamma = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.ones(c))

    def forward(self, x):
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.b(F.gelu(self.a(y)))
        return x + y.permute(0, 3, 1, 2)


def test_convnext(assert_law):
    """The stream, each norm's weight, and each layer scale have factors of their own."""
    net = nn.Sequential(nn.Conv2d(3, 6, 2, 2), ConvNext(6), ConvNext(6), head(6))
    assert_law(net, IMAGE, ["6 permutation nonzero nonzero nonzero nonzero nonzero", "2 x 24 permutation"])


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))))


def test_norms(assert_law):
    assert_law(Normed(nn.GroupNorm(2, 8)), IMAGE, ["2 x 4 permutation positive", "family of 2 bundles [4]"])
    assert_law(Normed(nn.GroupNorm(1, 8)), IMAGE, ["8 permutation positive"])
    assert_law(Normed(nn.InstanceNorm2d(8)), IMAGE, ["8 permutation"])
    assert_law(Normed(nn.InstanceNorm2d(8, affine=True)), IMAGE, ["8 permutation positive sign"])
    tracked = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    assert_law(Normed(tracked), IMAGE, ["8 permutation nonzero positive"])


def test_prelu(assert_law):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 5, 3), nn.PReLU(), nn.Flatten(), nn.Linear(80, 2))
    assert_law(net, IMAGE, ["6 permutation positive", "5 permutation positive"])


def test_volume(assert_law):
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4, 3)
    )
    assert_law(net, (torch.randn(2, 1, 4, 4, 4),), ["4 permutation nonzero positive"])


def test_transposed_in_groups(assert_law):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    assert_law(net, IMAGE, [
        "2 x 2 permutation positive", "2 x 3 permutation positive", "family of 2 bundles [2, 3]"])  # fmt: skip


def test_depthwise_transposed(assert_law):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 4, 2, groups=4), nn.Conv2d(4, 2, 1))
    assert_law(net, IMAGE, ["4 permutation nonzero positive"])


def test_depthwise_multiplier(assert_law):
    """Outputs of one channel move with it, or among each other; each of them has a scale of its own."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1))
    assert_law(net, IMAGE, ["4 permutation positive positive positive positive", "exchange of 3 parts in 3 pieces"])


class Separable(nn.Module):
    """Xception: separable convolutions with a skip by a strided convolution."""

    def __init__(self):
        super().__init__()
        self.deep1, self.point1 = nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), conv(6, 7, 1)
        self.deep2, self.point2 = nn.Conv2d(7, 7, 3, padding=1, groups=7, bias=False), conv(7, 8, 1, nn.Identity)
        self.skip, self.out = nn.Sequential(nn.Conv2d(3, 8, 1, 2, bias=False), nn.BatchNorm2d(8)), nn.Linear(8, 2)

    def forward(self, x):
        y = self.point2(self.deep2(self.point1(self.deep1(x))))
        return self.out((F.max_pool2d(y, 3, 2, 1) + self.skip(x)).mean((2, 3)))


def test_separable(assert_law):
    """The first depthwise layer reads fixed colours: two outputs of one colour may be exchanged and scaled."""
    assert_law(Separable(), IMAGE, [
        "3 x 2 permutation nonzero", "7 permutation nonzero nonzero positive", "8 permutation nonzero nonzero positive",
    ])  # fmt: skip


class Wave(nn.Module):
    """WaveNet: gated dilated convolutions with residual and skip."""

    def __init__(self, c=6, s=5):
        super().__init__()
        self.first = nn.Conv1d(1, c, 1)
        self.gates = nn.ModuleList([nn.Conv1d(c, 2 * c, 2, dilation=d) for d in (1, 2)])
        self.res = nn.ModuleList([nn.Conv1d(c, c, 1) for _ in range(2)])
        self.skip = nn.ModuleList([nn.Conv1d(c, s, 1) for _ in range(2)])
        self.out1, self.out2 = nn.Conv1d(s, s, 1), nn.Conv1d(s, 4, 1)

    def forward(self, x):
        x, total = self.first(x), 0.0
        for gate, res, skip, d in zip(self.gates, self.res, self.skip, (1, 2), strict=True):
            a, b = gate(F.pad(x, (d, 0))).chunk(2, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(y)
            x = x + res(y)
        return self.out2(F.relu(self.out1(F.relu(total))))


def test_wavenet(assert_law):
    assert_law(Wave(), (torch.randn(2, 1, 9),), [
        "6 permutation GL", "2 x 6 permutation sign", "2 x 5 permutation positive"])  # fmt: skip


class Upsampler(nn.Module):
    def __init__(self, by_hand):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 20, 3, padding=1)
        self.c, self.by_hand = nn.Conv2d(5, 3, 3, padding=1), by_hand

    def forward(self, x):
        x = F.interpolate(F.relu(self.a(x)), scale_factor=2, mode="bilinear")
        x = F.relu(self.b(x))
        if not self.by_hand:
            return self.c(F.pixel_shuffle(x, 2))
        n, c, h, w = x.shape
        return self.c(x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w))


def test_super_resolution(assert_law):
    for by_hand in (False, True):
        assert_law(Upsampler(by_hand), IMAGE, ["6 permutation positive", "5 permutation positive"])


class Unflattened(nn.Module):
    """A decoder: a linear layer makes an image, transposed convolutions enlarge it."""

    def __init__(self):
        super().__init__()
        self.a, self.up, self.out = nn.Linear(6, 4 * 9), nn.ConvTranspose2d(4, 5, 4, 2, 1), nn.Conv2d(5, 1, 3)

    def forward(self, z):
        x = F.relu(self.a(z)).unflatten(1, (4, 3, 3))
        return torch.sigmoid(self.out(F.relu(self.up(x))))


def test_decoder(assert_law):
    assert_law(Unflattened(), (torch.randn(2, 6),), ["4 permutation positive", "5 permutation positive"])
