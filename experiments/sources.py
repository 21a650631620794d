"""Files in, files out: checkpoints and saved graphs to read, pictures to write."""

from __future__ import annotations

from pathlib import Path

from converters import convert, restore
from converters.files import write_like
from converters.verify import Verification, verify_graph
from experiments.errors import ExperimentError
from graphnfn import io
from graphnfn.graph import NeuralGraph
from graphnfn.plotting import plot
from graphnfn.traced import TracedSpec

_PICTURES = (".png", ".svg", ".pdf")


def load_graph(path: Path, *, activation: str | None = None, omega: float | None = None) -> NeuralGraph:
    """A checkpoint as a graph, or a graph that was saved.

    Raises:
        GraphNFNError: the file is neither.
    """
    if io.is_graph_file(path):
        return io.load(path)
    return convert(path, activation=activation, omega=omega)


def check(graph: NeuralGraph) -> Verification | None:
    """The symmetry of a traced network, checked on its weights; None for chains, whose rules hold for any weights."""
    return verify_graph(graph)[1] if isinstance(graph.spec, TracedSpec) else None


def restore_file(graph_path: Path, like: Path, output: Path) -> None:
    """Write the weights of a saved graph in the format of the checkpoint that it came from.

    Raises:
        GraphNFNError: a file is missing or does not fit.
    """
    write_like(like, restore(io.load(graph_path), like=like), output)


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
