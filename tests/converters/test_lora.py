"""Adapters: what PEFT adds, name by name; any matrix may go between A and B."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from converters.lora import adapter_pairs, load_lora, write_lora
from graphnfn.errors import ConversionError


class Network(nn.Module):
    """Every kind of layer that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(11, 6), nn.Conv1d(6, 6, 3)
        block = {"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)}
        self.layers = nn.ModuleList(nn.ModuleDict(block) for _ in range(2))
        self.layers[1] = nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})
        self.head = nn.Linear(6, 3)


SETTINGS = {
    "plain": {"target_modules": ["up", "down"]},
    "every kind": {"target_modules": ["up", "down", "embed", "conv"], "modules_to_save": ["head"]},
    "patterns": {"target_modules": ["up", "down"], "rank_pattern": {"layers.1.up": 2}, "alpha_pattern": {"down": 3}},
    "square root": {"target_modules": ["up"], "use_rslora": True},
    "biases": {"target_modules": ["up"], "lora_bias": True},
    "magnitudes": {"target_modules": ["up"], "use_dora": True},
}


def adapted(case):
    """A network that PEFT adapted, with an adapter that does something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft", reason="the reference implementation is not installed")
        model = peft.get_peft_model(Network(), peft.LoraConfig(r=4, lora_alpha=6, **SETTINGS[case]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape))
    return model


def outputs(loaded):
    with torch.no_grad():
        return loaded.module(*loaded.inputs)


@pytest.mark.parametrize("case", SETTINGS)
def test_pairs_compute_what_peft_adds(case, tmp_path):
    model = adapted(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
    loaded = load_lora(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    state = loaded.module.state_dict()
    assert all(torch.equal(state[name], stored[source]) for name, source in loaded.names.items())
    assert set(stored) - set(loaded.names.values()) == {n for n in stored if "head" in n or "magnitude" in n}
    exported = torch.export.export(loaded.module, loaded.inputs, strict=False).module()(*loaded.inputs)
    pairs = adapter_pairs(stored)
    assert len(pairs) == len(loaded.inputs) == {"every kind": 6, "plain": 4, "patterns": 4}.get(case, 2)
    for pair, x, y, z in zip(pairs, loaded.inputs, outputs(loaded), exported, strict=True):
        layer = model.get_submodule(pair.layer)
        delta, kernel = layer.get_delta_weight("default"), layer.get_base_layer()
        bias = layer.lora_B["default"].bias if case == "biases" else None
        if isinstance(kernel, nn.Embedding):
            expected = delta[x]
        elif isinstance(kernel, nn.Conv1d):
            expected = nn.functional.conv1d(x, delta)
        else:
            expected = nn.functional.linear(x, delta, None if bias is None else bias * layer.scaling["default"])
        assert (y - expected).abs().max() <= 1e-5 * expected.abs().max() and torch.allclose(y, z)


def tensors():
    g = torch.Generator().manual_seed(0)
    shapes = {"q.lora_A.weight": (2, 6), "q.lora_B.weight": (5, 2), "norm.weight": (6,)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


SPELLINGS = {
    "PEFT, named": ("q.lora_A.default.weight", "q.lora_B.default.weight"),
    "loralib": ("q.lora_A", "q.lora_B"),
    "kohya": ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight"),
    "diffusers": ("unet.q.lora.down.weight", "unet.q.lora.up.weight"),
    "diffusers, processors": ("q.to_k_lora.down.weight", "q.to_k_lora.up.weight"),
    "alone": ("lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_spellings(case, tmp_path):
    a, b = tensors()["q.lora_A.weight"], tensors()["q.lora_B.weight"]
    loaded = load_lora(dict(zip(SPELLINGS[case], (a, b), strict=True)))
    x = loaded.inputs[0]
    assert tuple(loaded.names.values()) == SPELLINGS[case]
    assert torch.allclose(outputs(loaded)[0], x @ a.t() @ b.t())


def test_alpha_of_a_file_without_configuration():
    a, b = tensors()["q.lora_A.weight"], tensors()["q.lora_B.weight"]
    loaded = load_lora({"q.lora_down.weight": a, "q.lora_up.weight": b, "q.alpha": torch.tensor(6.0)})
    assert torch.allclose(outputs(loaded)[0], loaded.inputs[0] @ a.t() @ b.t() * 3)


def test_any_matrix_may_go_between():
    loaded = load_lora(tensors())
    moved = load_lora(tensors())
    g = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    pair, other = (
        loaded.module.get_submodule("pairs.q/lora_A/weight"),
        moved.module.get_submodule("pairs.q/lora_A/weight"),
    )
    other.load_state_dict(
        {"first": g @ pair.state_dict()["first"], "second": pair.state_dict()["second"] @ g.inverse()}
    )
    torch.testing.assert_close(outputs(moved), outputs(loaded))
    other.load_state_dict({"first": g @ pair.state_dict()["first"], "second": pair.state_dict()["second"] @ g})
    assert not torch.allclose(outputs(moved)[0], outputs(loaded)[0])  # control


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_stay_and_files_come_back(dtype, tmp_path):
    made = {n: t.to(dtype) for n, t in tensors().items()}
    (tmp_path / "a").mkdir()
    save_file(made, tmp_path / "a" / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    loaded = load_lora(tmp_path / "a")
    assert outputs(loaded)[0].dtype == dtype
    state = loaded.module.double().state_dict()
    write_lora(tmp_path / "a", {loaded.names[n]: t for n, t in state.items()}, tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    write_lora(tmp_path / "a", {"q.lora_A.weight": torch.zeros(2, 6)}, tmp_path / "c")
    back = load_file(tmp_path / "c" / "adapter_model.safetensors")
    assert not back["q.lora_A.weight"].any() and torch.equal(back["q.lora_B.weight"], made["q.lora_B.weight"])


def test_bin_files(tmp_path):
    torch.save(tensors(), tmp_path / "adapter_model.bin")
    assert torch.equal(outputs(load_lora(tmp_path))[0], outputs(load_lora(tensors()))[0])


def without(name):
    return {n: t for n, t in tensors().items() if n != name}


GOOD = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
BAD = {
    "no second": (without("q.lora_B.weight"), GOOD, "no partner"),
    "no first": (without("q.lora_A.weight"), GOOD, "no partner"),
    "no pairs": ({"w": torch.zeros(2)}, GOOD, "no pairs"),
    "ranks": (tensors() | {"q.lora_B.weight": torch.zeros(5, 3)}, GOOD, r"A of shape \(2, 6\)"),
    "dimensions": (tensors() | {"q.lora_B.weight": torch.zeros(5, 2, 1)}, GOOD, "B of shape"),
    "kernel of B": (
        {"q.lora_A.weight": torch.zeros(2, 6, 3), "q.lora_B.weight": torch.zeros(5, 2, 3)},
        GOOD,
        "of shape",
    ),
    "empty": ({"q.lora_A.weight": torch.zeros(0, 6), "q.lora_B.weight": torch.zeros(5, 0)}, GOOD, "of shape"),
    "vectors": ({"q.lora_A.weight": torch.zeros(2), "q.lora_B.weight": torch.zeros(2)}, GOOD, "of shape"),
    "integers": ({n: t.int() for n, t in tensors().items()}, GOOD, "floating"),
    "bias": (tensors() | {"q.lora_B.bias": torch.zeros(3)}, GOOD, "q.lora_B.bias"),
    "three factors": (tensors() | {"q.lora_mid.weight": torch.zeros(2, 2)}, GOOD, "two matrices"),
    "other kind": (tensors(), GOOD | {"peft_type": "IA3"}, "peft_type is 'IA3'; expected LORA"),
    "other rank": (tensors(), GOOD | {"r": 8}, "the rank that 'q' has"),
    "pattern": (tensors(), GOOD | {"alpha_pattern": {"(a+)+$": 3}}, "regular expression"),
    "alpha": (tensors(), GOOD | {"lora_alpha": "much"}, "expected a number"),
    "list": (tensors(), [], "expected a mapping"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters_are_one_clear_error(case, tmp_path):
    made, config, message = BAD[case]
    save_file(made, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=message):
        load_lora(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(ConversionError, match="none of adapter_model"):
        load_lora(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(ConversionError, match="no such folder"):
        load_lora(tmp_path)
