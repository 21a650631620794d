"""Policies of Stable-Baselines3: archives with the keys that version 2.9 writes, and hostile ones."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.public_zoos import import_zoo
from graphnfn.errors import ConversionError, GraphNFNError
from graphnfn.functional import run

RELU = "<class 'torch.nn.modules.activation.ReLU'>"


class Policy(nn.Module):
    """Submodules under the library's names, and the acting network as a function."""

    def __init__(self, parts: dict[str, nn.Module], act: Callable[[Policy, Tensor], Tensor]) -> None:
        super().__init__()
        for name, part in parts.items():
            *path, last = name.split(".")
            at: nn.Module = self
            for step in path:
                if not hasattr(at, step):
                    at.add_module(step, nn.Module())
                at = getattr(at, step)
            at.add_module(last, part)
        self.act = act


def mlp(sizes: tuple[int, ...], act: type[nn.Module], *, last: bool = False) -> nn.Sequential:
    """Dense layers, an activation behind each; behind the last one too with ``last``."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers += [nn.Linear(a, b), *([act()] if last or i < len(sizes) - 2 else [])]
    return nn.Sequential(*layers)


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 8, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 4, 2),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
    )


def ppo(act: type[nn.Module]) -> Policy:
    parts = {
        "mlp_extractor.policy_net": mlp((4, 8, 6), act, last=True),
        "mlp_extractor.value_net": mlp((4, 5), act, last=True),
        "action_net": nn.Linear(6, 3), "value_net": nn.Linear(5, 1),
    }  # fmt: skip
    policy = Policy(parts, lambda p, x: p.action_net(p.mlp_extractor.policy_net(x)))
    policy.log_std = nn.Parameter(torch.zeros(3))
    return policy


def dqn() -> Policy:
    parts = {"q_net.q_net": mlp((4, 8, 7, 3), nn.ReLU), "q_net_target.q_net": mlp((4, 8, 7, 3), nn.ReLU)}
    return Policy(parts, lambda p, x: p.q_net.q_net(x))


def sac() -> Policy:
    parts = {
        "actor.latent_pi": mlp((4, 8, 7), nn.ReLU, last=True), "actor.mu": nn.Linear(7, 2),
        "actor.log_std": nn.Linear(7, 2), "critic.qf0": mlp((6, 8, 1), nn.ReLU),
    }  # fmt: skip
    return Policy(parts, lambda p, x: p.actor.mu(p.actor.latent_pi(x)))


def td3() -> Policy:
    actor = mlp((4, 8, 2), nn.ELU).append(nn.Tanh())
    return Policy({"actor.mu": actor, "critic.qf0": mlp((6, 8, 1), nn.ReLU)}, lambda p, x: p.actor.mu(x))


def pixels() -> Policy:
    """Not square: 44 x 60 pixels leave 2 x 4 positions."""
    parts = {
        "features_extractor.cnn": cnn(), "features_extractor.linear": mlp((5 * 2 * 4, 9), nn.ReLU, last=True),
        "pi_features_extractor.linear": mlp((40, 9), nn.ReLU, last=True), "action_net": nn.Linear(9, 3),
        "value_net": nn.Linear(9, 1),
    }  # fmt: skip
    return Policy(parts, lambda p, x: p.action_net(p.features_extractor.linear(p.features_extractor.cnn(x))))


def facts(module: str, shape: tuple[int, ...], act: str | None = None, **more: Any) -> dict[str, Any]:
    """What ``data`` says; a pickle in base64 stands beside most entries."""
    pickled = {":serialized:": "gAWVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"}
    kwargs = {":type:": "<class 'dict'>", **pickled, "activation_fn": act} if act else {}
    return {
        "policy_class": {**pickled, "__module__": f"stable_baselines3.{module}.policies"},
        "policy_kwargs": kwargs, "num_timesteps": 25000, "learning_rate": 3e-4, "gamma": 0.99, "seed": None,
        "_last_obs": None, "verbose": 0, "use_sde": False,
        "observation_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", **pickled, "_shape": list(shape)}, **more,
    }  # fmt: skip


POLICIES: dict[str, tuple[Policy, dict[str, Any], tuple[int, ...]]] = {
    "a2c": (ppo(nn.Tanh), facts("common", (4,)), (4,)),
    "ppo": (ppo(nn.ReLU), facts("common", (4,), RELU, clip_range={":serialized:": "x"}, ent_coef=0.01), (4,)),
    "dqn": (dqn(), facts("dqn", (4,)), (4,)),
    "sac": (sac(), facts("sac", (4,), ent_coef="auto"), (4,)),
    "td3": (td3(), facts("td3", (4,), "<class 'torch.nn.modules.activation.ELU'>"), (4,)),
    "pixels": (pixels(), facts("common", (2, 44, 60), clip_range={}), (2, 44, 60)),
}


def write(path: Path, state: Any, data: Any) -> Path:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", data if isinstance(data, str) else json.dumps(data, indent=4))
        archive.writestr("pytorch_variables.pth", b"")
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("policy.optimizer.pth", b"")
        archive.writestr("_stable_baselines3_version", "2.9.2")
        archive.writestr("system_info.txt", "OS: x")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (policy, data, _) in POLICIES.items():
        write(tmp_path / "agents" / name / "model.zip", policy.state_dict(), data)
    return tmp_path / "agents"


def test_networks_act_like_their_policies(folder: Path, tmp_path: Path):
    zoo = import_zoo("sb3", folder, tmp_path / "zoo")
    assert zoo.table["file"].tolist() == [f"{name}/model.zip" for name in sorted(POLICIES)]
    for row, name in enumerate(sorted(POLICIES)):
        policy, _, shape = POLICIES[name]
        seen = torch.rand(5, *shape)
        assert torch.allclose(run(zoo.batch([row]), seen)[0], policy.act(policy, seen), atol=1e-6), name
        assert zoo.specs[row].input_shape == shape
        got = zoo.batch([row]).stacks()[0].unpack()
        assert all(torch.equal(tensor[0], policy.state_dict()[key]) for key, tensor in got.items())


def test_table_has_numbers_and_the_algorithm(folder: Path, tmp_path: Path):
    zoo = import_zoo("sb3", folder, tmp_path / "zoo")
    assert zoo.table["algorithm"].tolist() == ["a2c", "dqn", "ppo", "ppo", "sac", "td3"]
    assert zoo.table["num_timesteps"].tolist() == [25000] * 6
    assert not {"_last_obs", "policy_class"} & set(zoo.table)
    (tmp_path / "scores.csv").write_text(
        "file,mean_reward,split,spec\nsac/model.zip,3.5,test,9\na2c/model.zip,1.5,train,9\n"
    )
    scored = import_zoo("sb3", folder, tmp_path / "scored", [f"labels={tmp_path / 'scores.csv'}"])
    assert scored.labels("mean_reward", [0, 4]).tolist() == [1.5, 3.5] and scored.split("test").tolist() == [4]


def test_numbers_too_large_for_a_table_are_left_out(tmp_path: Path):
    policy, data, _ = POLICIES["dqn"]
    write(tmp_path / "model.zip", policy.state_dict(), {**data, "num_timesteps": 10**400, "gamma": 10**17})
    zoo = import_zoo("sb3", tmp_path / "model.zip", tmp_path / "zoo")
    assert "num_timesteps" not in zoo.table and zoo.table["gamma"].tolist() == [1e17]


def test_one_archive(folder: Path, tmp_path: Path):
    zoo = import_zoo("sb3", folder / "td3" / "model.zip", tmp_path / "zoo")
    assert len(zoo) == 1 and str(zoo.specs[0].groups[-1].activations[0]) == "tanh"


def test_images_of_unknown_size(tmp_path: Path):
    """Without an observation space the network is read, but its input size stays unknown."""
    policy, data, _ = POLICIES["pixels"]
    write(tmp_path / "model.zip", policy.state_dict(), {**data, "observation_space": None})
    zoo = import_zoo("sb3", tmp_path / "model.zip", tmp_path / "zoo")
    assert zoo.specs[0].input_shape is None and zoo.specs[0].groups[0].size == 2


def test_the_default_activation_is_not_the_same_everywhere(folder: Path, tmp_path: Path):
    zoo = import_zoo("sb3", folder, tmp_path / "zoo")
    kinds = [str(zoo.specs[row].groups[1].activations[0]) for row in range(6)]
    assert dict(zip(sorted(POLICIES), kinds, strict=True)) == {
        "a2c": "tanh", "dqn": "relu", "pixels": "relu", "ppo": "relu", "sac": "relu", "td3": "elu",
    }  # fmt: skip


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


def _state(**changes: Any) -> dict[str, Any]:
    return {**ppo(nn.Tanh).state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", " " * (1 << 27))


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "code": lambda p: write(p, _state(action_net__weight=Attack()), facts("common", (4,))),
    "no archive": lambda p: p.write_bytes(b"PK\x03\x04 not really"),
    "no policy": lambda p: zipfile.ZipFile(p, "w").close(),
    "bomb": _bomb,
    "no json": lambda p: write(p, _state(), "{"),
    "deep json": lambda p: write(p, _state(), "[" * 100000),
    "json list": lambda p: write(p, _state(), "[1]"),
    "recurrent": lambda p: write(p, _state(lstm_actor__weight_ih_l0=torch.zeros(4, 4)), facts("common", (4,))),
    "own extractor": lambda p: write(p, _state(features_extractor__net__weight=torch.zeros(2)), facts("common", (4,))),
    "unknown policy": lambda p: write(p, {"net.weight": torch.zeros(2, 2)}, facts("common", (4,))),
    "does not chain": lambda p: write(p, _state(action_net__weight=torch.zeros(3, 9)), facts("common", (4,))),
    "other image": lambda p: write(p, POLICIES["pixels"][0].state_dict(), facts("common", (2, 84, 84))),
    "no image": lambda p: write(p, POLICIES["pixels"][0].state_dict(), facts("common", (44,))),
    "nan": lambda p: write(p, _state(action_net__bias=torch.full((3,), torch.nan)), facts("common", (4,))),
    "odd activation": lambda p: write(p, _state(), facts("common", (4,), "<class '__main__.Swoosh'>")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_clear_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](tmp_path / "model.zip")
    with pytest.raises(GraphNFNError) as caught:
        import_zoo("sb3", tmp_path / "model.zip", tmp_path / "zoo")
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "zoo").exists()


def test_nothing_there(tmp_path: Path):
    with pytest.raises(ConversionError, match="no zip archive there"):
        import_zoo("sb3", tmp_path, tmp_path / "zoo")


def test_damaged_files_are_read_or_refused(folder: Path, refusals: Callable[..., int]):
    archive = folder / "ppo" / "model.zip"
    assert refusals("sb3", archive, [archive], 40) > 15
