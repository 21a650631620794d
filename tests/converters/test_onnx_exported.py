"""Modules that PyTorch exported: onnxruntime, the module that is read, and its traced program agree."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from converters.onnx import load_onnx


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.gru = nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(12, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.lstm(self.gru(self.embed(x))[0])[0].mean(1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1), nn.Conv2d(16, 2, 1)
        self.group, self.instance = nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True)

    def forward(self, x):
        a = nn.functional.silu(self.group(self.a(x)))
        b = self.instance(self.b(a))
        wide = nn.functional.interpolate(b, scale_factor=2.0, mode="bilinear")
        return self.out(torch.cat([a, self.up(b) + wide], 1))


MODULES = {
    "mlp": (nn.Sequential(nn.Linear(3, 8), nn.PReLU(8), nn.Linear(8, 8), nn.GELU(), nn.BatchNorm1d(8)), (2, 3)),
    "cnn": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ELU(), nn.Conv2d(6, 6, 3, groups=6), nn.MaxPool2d(2, ceil_mode=True),
                          nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)), (2, 3, 11, 11)),
    "unet": (UNet(), (2, 3, 16, 16)),
    "recurrent": (Recurrent(), None),
    "transformer": (nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu"),
                                          2, enable_nested_tensor=False), (2, 5, 16)),
}  # fmt: skip


EXPORTS = [(kind, opset) for kind in MODULES for opset in (9, 13, 18)
           if opset >= {"unet": 11, "transformer": 14}.get(kind, 9)]  # fmt: skip


@pytest.mark.parametrize(("kind", "opset"), EXPORTS)
def test_exported_module(kind, opset, tmp_path):
    """onnxruntime, our module and its traced program agree; every weight is there once."""
    module, shape = MODULES[kind]
    module.eval()
    for p in module.parameters():
        p.data.normal_(0, 0.3)
    given = torch.randint(10, (2, 5)) if shape is None else torch.randn(shape)
    with warnings.catch_warnings():  # with gradients: without, PyTorch takes a path that it cannot export
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (given,), str(tmp_path / "m.onnx"), dynamo=False, opset_version=opset)
    loaded = load_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (expected,) = session.run(None, {session.get_inputs()[0].name: loaded.inputs[0].numpy()})
    traced = torch.export.export(loaded.module, loaded.inputs, strict=False).module()
    with torch.no_grad():
        got, again = loaded.module(*loaded.inputs), traced(*loaded.inputs)
        double = loaded.module.double()(*(x.double() if x.is_floating_point() else x for x in loaded.inputs))
    scale = abs(np.asarray(expected)).max()
    assert torch.allclose(got, torch.tensor(np.asarray(expected)), rtol=0, atol=1e-5 * scale)
    assert torch.equal(got, again)
    assert double.dtype == torch.float64 and torch.allclose(double.float(), got, rtol=0, atol=1e-5 * scale)
    count = sum(v.numel() for v in loaded.module.state_dict().values() if v.numel() > 1)
    wanted = sum(v.numel() for v in module.state_dict().values() if v.is_floating_point() and v.numel() > 1)
    assert count == wanted
