"""Files in, files out: checkpoints and saved graphs to read, pictures to write."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn

from converters import convert
from converters.verify import Verification, verify_graph
from experiments.errors import ExperimentError
from graphnfn import io
from graphnfn.graph import NeuralGraph
from graphnfn.plotting import plot
from graphnfn.traced import TracedSpec

_PICTURES = (".png", ".svg", ".pdf")


def load_graph(
    path: Path,
    *,
    activation: str | None = None,
    omega: float | None = None,
    module: str | None = None,
    shape: str | None = None,
) -> NeuralGraph:
    """A checkpoint as a graph, or a graph that was saved.

    Args:
        path: the file or folder.
        activation: of the hidden layers, where a bare state dict cannot tell.
        omega: frequency of sin and cos.
        module: ``PACKAGE.MODULE:CALLABLE`` that makes the network, for files that hold tensors only.
        shape: of its input, such as ``2,3,224,224``, or ``int:2,16`` for tokens; several between semicolons.

    Raises:
        GraphNFNError: the file is neither, or the module cannot be made.
    """
    if io.is_graph_file(path):
        return io.load(path)
    if module is None and shape is None:
        return convert(path, activation=activation, omega=omega)
    if module is None or shape is None:
        raise ExperimentError("--module and --input go together: the network, and the shape of what it takes")
    return convert(path, module=_made(module), example_input=_example(shape))


def _made(name: str) -> nn.Module:
    package, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(package), attribute)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ExperimentError(
            f"--module {name}: {error}; expected PACKAGE.MODULE:CALLABLE without arguments"
        ) from error
    if not isinstance(made, nn.Module):
        raise ExperimentError(f"--module {name} makes a {type(made).__name__}; expected an nn.Module")
    return made.eval()


def _example(shapes: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(_drawn(text.strip(), generator) for text in shapes.split(";"))


def _drawn(text: str, generator: torch.Generator) -> Tensor:
    """Random numbers; with ``int:`` in front, tokens 0 and 1, which every vocabulary has."""
    try:
        shape = [int(n) for n in text.removeprefix("int:").split(",")]
        if text.startswith("int:"):
            return torch.randint(2, shape, generator=generator)
        return torch.randn(shape, generator=generator)
    except (ValueError, RuntimeError) as error:
        raise ExperimentError(f"--input {text!r}: expected sizes such as 2,3,64,64, or int:2,16 for tokens") from error


def check(graph: NeuralGraph) -> Verification | None:
    """The symmetry of a traced network, checked on its weights; None for chains, whose rules hold for any weights."""
    return verify_graph(graph)[1] if isinstance(graph.spec, TracedSpec) else None


def save_plot(graph: NeuralGraph, path: Path) -> None:
    """Draw a network into a file, which appears whole or not at all.

    Raises:
        ExperimentError: the suffix is no picture format.
    """
    if path.suffix not in _PICTURES:
        raise ExperimentError(f"got the picture {path.name!r}; its name must end in {', '.join(_PICTURES)}")
    partial = path.with_name(f".partial-{path.name}")
    try:
        plot(graph, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
