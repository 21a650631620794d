"""Imports go one way: experiments -> {converters, baselines} -> graphnfn."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "graphnfn": {"graphnfn"},
    "converters": {"converters", "graphnfn"},
    "baselines": {"baselines", "graphnfn"},
    "experiments": {"experiments", "converters", "baselines", "graphnfn"},
}
"""Per package, the packages of this repository that its modules may import."""


def imported(source: str, package: str) -> set[str]:
    """Top-level packages that a module of ``package`` imports, inside functions and by name too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names.update(str(a.value).split(".")[0] for a in node.args if isinstance(a, ast.Constant))
    return names


def violations(source: str, package: str) -> set[str]:
    """Packages that a module of ``package`` may not import, but does."""
    return imported(source, package) & ({*MAY_IMPORT, "tests"} - MAY_IMPORT[package])


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in sorted((ROOT / package).rglob("*.py"))
        if (wrong := violations(path.read_text(encoding="utf-8"), package))
    }
    assert found == {}


def test_the_kit_is_only_for_tests() -> None:
    """Nothing in the library needs its own testing kit, which in turn needs nothing above the core."""
    for path in (ROOT / "graphnfn").rglob("*.py"):
        if "testing" not in path.parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not any(module.startswith("graphnfn.testing") for module in modules), path


@pytest.mark.parametrize(
    ("source", "package", "wrong"),
    [
        ("import converters", "graphnfn", {"converters"}),
        ("def lazy():\n    from baselines.stats import StatNN", "graphnfn", {"baselines"}),
        ("from baselines import x", "converters", {"baselines"}),
        ("import converters.module", "baselines", {"converters"}),
        ("import importlib\nimportlib.import_module('experiments.cli')", "converters", {"experiments"}),
        ("if TYPE_CHECKING:\n    import experiments.cli", "baselines", {"experiments"}),
        ("from tests.conftest import shared", "experiments", {"tests"}),
        ("from graphnfn import NeuralGraph\nimport torch\nfrom . import sibling", "converters", set()),
    ],
)
def test_the_check_itself(source: str, package: str, wrong: set[str]) -> None:
    assert violations(source, package) == wrong
