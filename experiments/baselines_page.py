"""The page docs/baselines.md, from what :mod:`experiments.baselines_table` measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments import adapters
from experiments.blindness import SEEDS
from experiments.claims import KINDS

_HEAD = """# Baselines, measured

Made by `graphnfn baselines -o docs/baselines.md --golden FOLDER --peers CLONES`, and with `--update` for some models;
the JSON file beside this page holds every number.

- commit {commit}{kept}
- one thread of {processor}; {packages}
- load of the machine (1, 5, 15 minutes): {before} at the beginning, {after} in the end

Models: our layers first, then `baselines.names()`; those of adapters have tables of their own.

## Symmetry and parity

**Claims** is the class attribute `symmetry`. **Permutation, scale, sign** are largest relative changes of the
prediction in float64 under random group elements of one kind alone, scales over six decades: networks with random
weights, models with random weights, without a last sigmoid; scales on ReLU networks, signs on tanh and sin networks.
About 1e-15 is exact. **Parity** is the largest relative difference to outputs of the unmodified official code with the
same weights, over all golden files of the paper, layers and editors included.
"""

_BLIND = """
## Blind spots

Each change below alters what the networks compute. A model is **blind** to it where its prediction stays the same to
rounding (1e-12) for every network, {seeds} random models and all architectures that it reads (MLPs 3-6-6-6-2 and CNNs
1-5-5-5-2, ReLU and tanh); it sees **in part** where this is so for some networks; **faintly** where some predictions
change by less than 1e-7. Blindness is a fact of the architecture or of the random start: a change that is only faint
at the start may grow in training.
"""

_COST = """
## Cost of a training step

Forward, backward and AdamW on {networks} networks, CPU milliseconds on one thread, median (quartiles). **Official** is
the unmodified code at the same settings, but on another machine (a Xeon; `experiments/published_costs.yaml` has
sources and threads): take the ratio as a rough one, and the table below where both ran here. Rows without a preset have
the defaults, ours width 32 and one round.
"""

_PEERS = """
## Beside the official codes, on this machine

The same step of our model and of the unmodified official code (`--peers FOLDER` with clones, see `experiments/peers`),
taken in turns in one process on one thread: medians of CPU milliseconds, and the median over turns of ours / official,
which is the figure to take: on a busy machine CPU times grow by waits for memory. Both have the same settings,
networks, loss and AdamW. What official data loaders prepare, such as PyG batches of neuron graphs, is prepared outside
of the step; ours makes its batch inside. Counts of parameters differ where a note says why.
"""

_ADAPTERS = """
## Models of low-rank adapters

They read LoRA adapters as `converters.convert` gives them: pairs of factors with any invertible matrix between them.
Errors as above, under permutations, scales (two decades), signs, rotations (O) and any invertible matrices (GL) between
the factors of three layers of rank 3; O contains the permutations and signs, GL everything. Blind spots are those among
the changes of one or two updates that are listed below; cost is that of adapters of 4 layers 64 x 64 of rank 8.
"""

_EDITORS = """
## Models that edit networks

The same errors for edited networks, `|g^-1 f(g G) - f(G)| / |f(G)|`, tensor by tensor.
"""


def page(found: dict[str, Any]) -> str:
    """The page as Markdown, from what ``survey`` returned."""
    about = found["about"]
    before, after = ("/".join(f"{x:.1f}" for x in load) for load in about["load"])
    kept = "".join(
        f"\n- rows kept from commit {commit}, on {about['machines'][commit].get('processor', 'an unknown machine')}: "
        f"{', '.join(names)}"
        for commit, names in about.get("kept", {}).items()
    )
    machine = about["machine"]
    head = _HEAD.format(
        commit=about["commit"], kept=kept, processor=machine["processor"], packages=machine["packages"],
        before=before, after=after,
    )  # fmt: skip
    measured = found["golden"] is not None
    parts = [head, _table(_SYMMETRY, (_symmetry(m, measured) for m in found["models"]))]
    parts += [
        _BLIND.format(seeds=SEEDS),
        _table(("model", "blind to", "in part", "faintly"), map(_sight, found["models"])),
    ]
    parts += ["\nWhat was tried:\n\n" + "".join(f"- {name}\n" for name in found["disturbances"])]
    parts += [_COST.format(networks=about["networks"]), _table(_TIMES, (r for m in found["models"] for r in _times(m)))]
    if found["peers"]:
        parts += [_PEERS, _table(_BESIDE, map(_beside, found["peers"]))]
    if found["adapters"]:
        rows = found["adapters"]
        parts += [_ADAPTERS, _table(_BASES, map(_adapter, rows))]
        parts += [_table(("model", "blind to", "in part", "faintly"), map(_sight, rows))]
        parts += [_table(_TIMES[:5], (r[:5] for m in rows for r in _times(m)))]
        parts += ["\nWhat was tried:\n\n" + "".join(f"- {name}\n" for name in found["changes"])]
    if found["editors"]:
        parts += [_EDITORS, "\n", _table(_SYMMETRY, (_symmetry(m, measured) for m in found["editors"]))]
    if measured:
        parts += ["\n## Golden files\n\n", _table(("file", "our class", "error"), map(_golden, found["golden"]))]
    return "".join(parts)


_SYMMETRY = ("model", "paper", "claims", *KINDS, "parity (golden files)", "settings beside the defaults")
_BESIDE = (
    "model", "networks", "preset", "official code", "parameters", "ms", "official ms", "ours / official", "turns",
)  # fmt: skip
_BASES = ("model", "paper", "claims", *adapters.KINDS)
_TIMES = ("model", "networks", "preset", "parameters", "ms", "official ms", "ours / official")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _small(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _symmetry(model: dict[str, Any], measured: bool) -> list[str]:
    errors = ["not read" if model["symmetry"][k] is None else _small(model["symmetry"][k]) for k in KINDS]
    parity = model["parity"]
    agreement = "no golden file" if measured else "not measured"
    if parity:
        agreement = f"{_small(parity['error'])} ({parity['files']})"
    settings = ", ".join(f"{k}={v}" for k, v in model["probed"].items())
    return [*_who(model), *errors, agreement, settings]


def _who(model: dict[str, Any]) -> list[str]:
    paper = model["paper"]
    paper = f"[{paper}](https://arxiv.org/abs/{paper})" if paper[:1].isdigit() else paper
    return [f"`{model['name']}`", paper, ", ".join(model["claimed"]) or "none"]


def _adapter(model: dict[str, Any]) -> list[str]:
    return [*_who(model), *(_small(model["symmetry"][k]) for k in adapters.KINDS)]


def _sight(model: dict[str, Any]) -> list[str]:
    words: dict[str, list[str]] = {"blind": [], "partly": [], "faintly": []}
    for name, sight in model["sight"].items():
        if sight["word"] == "partly":
            words["partly"].append(f"{name} ({sight['seen'] + sight['faint']} of {sight['of']})")
        elif sight["word"] in words:
            words[sight["word"]].append(name)
    return [f"`{model['name']}`", *("; ".join(w) or "nothing" for w in words.values())]


def _times(model: dict[str, Any]) -> Iterable[list[str]]:
    for t in model["step_times"]:
        official = t["published"]
        spread = f" ({t['low']:.0f} to {t['high']:.0f})" if t["repeats"] > 1 else " (one step)"
        yield [
            f"`{model['name']}`", t["shape"], t["preset"], f"{t['parameters']:,}", f"{t['ms']:.0f}{spread}",
            f"{official['step_ms']:,.0f}" if official else "",
            f"{t['ms'] / official['step_ms']:.2f}" if official else "",
        ]  # fmt: skip


def _beside(pair: dict[str, Any]) -> list[str]:
    counts = f"{pair['parameters']:,}"
    if pair["official_parameters"] != pair["parameters"]:
        counts += f" (official {pair['official_parameters']:,}: {pair['extra'] or 'UNEXPLAINED'})"
    code = pair["clone"] + (f"@{pair['commit']}" if pair["commit"] else "")
    return [
        f"`{pair['model']}`", f"{pair['networks']} x {pair['shape']}", pair["preset"], code, counts,
        f"{pair['ms']:.0f}", f"{pair['official_ms']:,.0f}", f"{pair['ratio']:.2f}", str(pair["turns"]),
    ]  # fmt: skip


def _golden(row: dict[str, Any]) -> list[str]:
    if row["error"] is None:
        return [f"`{row['file']}`", f"no loader for {row['model']}", ""]
    return [f"`{row['file']}`", row["model"], _small(row["error"]) + ("" if row["exact"] else " (rounded to float32)")]
