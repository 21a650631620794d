"""Architectures of published checkpoints that hold tensors only: what their packages compute, in modules of our own.

Parameter names are those of the checkpoints. Each class says where its network is described.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class Architecture(nn.Module):
    """A network with the shapes of its inputs, and for tokens instead of numbers how many there are at least."""

    inputs: ClassVar[tuple[tuple[int, ...], ...]]
    tokens: ClassVar[int | None] = None

    @classmethod
    def examples(cls) -> tuple[Tensor, ...]:
        """Random inputs."""
        if cls.tokens is None:
            return tuple(torch.randn(shape) for shape in cls.inputs)
        return tuple(torch.randint(cls.tokens, shape) for shape in cls.inputs)


class DigitRecognizer(Architecture):
    """digit-recognizer-py 0.1.0: three convolutions with pooling, two dense layers."""

    inputs = ((2, 1, 28, 28),)

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for into, out in ((1, 32), (32, 64), (64, 128)):
            stages += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*stages)
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_layers(self.conv_layers(x).flatten(1))


class ProposalNet(Architecture):
    """P-Net of MTCNN (Zhang et al. 2016, figure 2), facenet-pytorch 2.6.0: class and box heads on one trunk."""

    inputs = ((2, 3, 24, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return torch.softmax(self.conv4_1(x), 1), self.conv4_2(x)


class RefineNet(Architecture):
    """R-Net of MTCNN (Zhang et al. 2016, figure 2), facenet-pytorch 2.6.0."""

    inputs = ((2, 3, 24, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.pool(self.prelu2(self.conv2(x)))))
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))
        return torch.softmax(self.dense5_1(x), 1), self.dense5_2(x)


class OutputNet(Architecture):
    """O-Net of MTCNN (Zhang et al. 2016, figure 2), facenet-pytorch 2.6.0."""

    inputs = ((2, 3, 48, 48),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = (nn.Linear(256, n) for n in (2, 4, 10))
        self.wide, self.narrow = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.wide(self.prelu1(self.conv1(x)))
        x = self.wide(self.prelu2(self.conv2(x)))
        x = self.prelu4(self.conv4(self.narrow(self.prelu3(self.conv3(x)))))
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))
        return torch.softmax(self.dense6_1(x), 1), self.dense6_2(x), self.dense6_3(x)


class NormedConv(nn.Module):
    """A convolution of one dimension, a batch norm, a ReLU."""

    def __init__(self, into: int, out: int, size: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(into, out, size, padding=dilation * (size - 1) // 2, dilation=dilation)
        self.bn = nn.BatchNorm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class AttaCut(Architecture):
    """attacut 1.0.6, syllable and character model: two embeddings, three parallel convolutions, their maximum."""

    inputs = ((2, 2, 12),)
    tokens = 100

    def __init__(self) -> None:
        super().__init__()
        self.ch_embeddings, self.sy_embeddings = nn.Embedding(139, 32), nn.Embedding(6227, 16)
        self.conv1 = NormedConv(48, 64, 3, 1)
        self.conv2 = NormedConv(48, 64, 5, 3)
        self.conv3 = NormedConv(48, 64, 9, 2)
        self.linear1, self.linear2 = nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.ch_embeddings(x[:, 0]), self.sy_embeddings(x[:, 1])], 2).permute(0, 2, 1)
        x = torch.stack([self.conv1(x), self.conv2(x), self.conv3(x)], 3).amax(3)
        return self.linear2(torch.relu(self.linear1(x.permute(0, 2, 1))))


class SileroVAD(Architecture):
    """silero-vad 6.2.3 at 16 kHz: a learned spectrum, four convolutions, an LSTM from window to window of sound.

    Inputs are windows ``[T, 576]`` and the states ``[1, 1, 128]`` before the first, as of its ONNX file for sequences.
    """

    inputs = ((3, 576), (1, 1, 128), (1, 1, 128))

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        real, imaginary = self.stft_conv(nn.functional.pad(x, (0, 64), mode="reflect")[:, None]).chunk(2, 1)
        x = torch.sqrt(real**2 + imaginary**2)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(conv(x))
        cell = self.lstm_cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        x, h, c = torch.lstm(x.mT, (h, c), weights, True, 1, 0.0, False, False, False)
        return torch.sigmoid(self.final_conv(torch.relu(x).mT)).flatten(), h, c


class Pronounce(Architecture):
    """g2p-en 2.1.0: a GRU reads letters, its last state starts another one that speaks phonemes."""

    inputs = ((2, 7), (2, 7))
    tokens = 29

    def __init__(self) -> None:
        super().__init__()
        shapes = {"enc_emb": (29, 256), "dec_emb": (74, 256), "fc_w": (74, 256), "fc_b": (74,)}
        for part in ("enc", "dec"):
            shapes |= {f"{part}_w_ih": (768, 256), f"{part}_w_hh": (768, 256)}
            shapes |= {f"{part}_b_ih": (768,), f"{part}_b_hh": (768,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) / 16))

    def _gru(self, part: str, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        names = ("w_ih", "w_hh", "b_ih", "b_hh")
        x = nn.functional.embedding(tokens, self.get_parameter(f"{part}_emb"))
        weights: list[Tensor] = [self.get_parameter(f"{part}_{name}") for name in names]
        return torch.gru(x, state, weights, True, 1, 0.0, False, False, True)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        weight = self.get_parameter("fc_w")
        _, state = self._gru("enc", letters, weight.new_zeros(1, len(letters), weight.shape[1]))
        spoken, _ = self._gru("dec", phonemes, state)
        return nn.functional.linear(spoken, weight, self.get_parameter("fc_b"))
