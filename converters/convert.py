"""``convert``: one door for every source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from converters.exchanges import with_exchanges
from converters.loaded import Loaded
from converters.modules import module_spec
from converters.readers import file_tensors, filled, own_tensors, read_network
from converters.sources import state_dict_of
from converters.tensors import tensors_spec
from converters.traced import loaded_graph
from converters.verify import verify_graph
from graphnfn import io
from graphnfn.activations import Activation, as_activation
from graphnfn.effective import fold_norms
from graphnfn.errors import ConversionError, SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.traced import TracedSpec

Source = nn.Module | Mapping[str, Tensor] | str | Path | Any
Inputs = Tensor | Sequence[Tensor]


def convert(  # noqa: PLR0913 - one door for every source
    source: Source,
    *,
    activation: str | Activation | None = None,
    omega: float | None = None,
    output_activation: str | Activation | None = None,
    fold_norm: bool = False,
    example_input: Inputs | None = None,
    module: nn.Module | None = None,
    verify: bool = True,
    strict: bool = False,
) -> NeuralGraph:
    """Turn a checkpoint into a neuron graph; :func:`converters.restore` leads back.

    Plain MLPs and CNNs are read layer by layer. Everything else is traced: its symmetry is inferred operator by
    operator and verified on its own weights; the graph's spec is then a :class:`~graphnfn.traced.TracedSpec`.

    Args:
        source: a module, a state dict, a scikit-learn MLP, or a path: .safetensors, .pt, .pth, .ckpt, .npz, .onnx,
            .h5, .keras, a Hugging Face or PEFT folder, or a graph that :func:`graphnfn.save` wrote.
        activation: of all hidden layers, where a state dict cannot tell.
        omega: frequency, with ``activation`` sin or cos.
        output_activation: of the last layer, where a state dict cannot tell.
        fold_norm: fold batch norms into the layers before them (MLPs and CNNs).
        example_input: one batch for a module, or several inputs: needed to trace.
        module: the architecture of a checkpoint that holds tensors only.
        verify: check the symmetry of traced networks on the weights, and give up what fails.
        strict: an operator without a rule is an error, rather than a reason to fix what is around it.

    Raises:
        ConversionError: something is not supported, does not chain, is missing, damaged or not finite.

    Example:
        >>> graph = convert(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
        >>> [group.size for group in graph.spec.groups]
        [2, 8, 1]
    """
    if isinstance(source, (str, Path)) and io.is_graph_file(Path(source)):
        return io.load(source)
    inputs = _inputs(example_input)
    hints = (activation, omega, output_activation) != (None, None, None)
    loaded = read_network(source)
    if isinstance(source, nn.Module) and module is not None:
        raise ConversionError("the source is a module already: drop module=, or give the checkpoint as the source")
    if module is not None and loaded is None:
        loaded = filled(module, cast("str | Path | Mapping[str, Tensor]", source), inputs or ())
        source = loaded.module
    if hints and (loaded is not None or isinstance(source, nn.Module)):
        raise ConversionError("a module tells its activations itself: drop activation=, omega=, output_activation=")
    if isinstance(source, nn.Module):
        graph = _chain_of(source, inputs) if loaded is None or _same_names(loaded) else None
        if graph is not None:
            return _folded(graph, fold_norm)
        loaded = loaded or Loaded(source, inputs or (), {})
    if loaded is not None:
        return _traced(loaded, fold_norm=fold_norm, verify=verify, strict=strict)
    if inputs is not None:
        raise ConversionError(
            "example_input= runs a module; a state dict cannot run: drop it, or give module= too (a TorchScript file's "
            "own program is not run: where you trust it, convert torch.jit.load(path))"
        )
    if omega is not None and activation not in ("sin", "cos"):
        raise ConversionError(f"omega={omega} goes with activation='sin' or 'cos', not with {activation!r}")
    tensors = tensors_of(source)
    hidden = None if activation is None else as_activation(activation, omega)
    last = None if output_activation is None else as_activation(output_activation)
    return _folded(_build(tensors_spec(tensors, hidden, last), tensors), fold_norm)


def _inputs(example_input: Inputs | None) -> tuple[Tensor, ...] | None:
    if example_input is None:
        return None
    return (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)


def _same_names(loaded: Loaded) -> bool:
    return all(name == own for name, own in loaded.names.items())


def _chain_of(module: nn.Module, inputs: tuple[Tensor, ...] | None) -> NeuralGraph | None:
    """The graph of a plain MLP or CNN; None where the module is something else and can be traced."""
    try:
        spec = module_spec(module, inputs[0] if inputs and len(inputs) == 1 else None)
    except ConversionError as error:
        if inputs is None:
            raise ConversionError(f"{error}. Anything else is traced: give example_input=") from error
        return None
    return _build(spec, module.state_dict())


def _traced(loaded: Loaded, *, fold_norm: bool, verify: bool, strict: bool) -> NeuralGraph:
    if fold_norm:
        raise ConversionError("fold_norm= is for plain MLPs and CNNs: this network is traced as it is, drop it")
    graph = loaded_graph(loaded)
    assert isinstance(graph.spec, TracedSpec)
    if strict and graph.spec.law.notes:
        raise ConversionError("; ".join(graph.spec.law.notes) + " (strict=True); drop strict= to convert the rest")
    graph = with_exchanges(graph)
    return verify_graph(graph, each=False)[0] if verify else graph


def _folded(graph: NeuralGraph, fold_norm: bool) -> NeuralGraph:
    try:
        return fold_norms(graph) if fold_norm else graph
    except SpecError as error:
        raise ConversionError(str(error)) from error


def tensors_of(source: Source) -> dict[str, Tensor]:
    """The named tensors of any source.

    Raises:
        ConversionError: they cannot be read.
    """
    if isinstance(source, nn.Module):
        return source.state_dict()
    if isinstance(source, (str, Path)):
        return file_tensors(Path(source))
    loaded = read_network(source)
    if loaded is not None:
        return own_tensors(loaded)
    if isinstance(source, Mapping):
        return state_dict_of(source, "the source")
    raise ConversionError(f"cannot convert a {type(source).__name__}; expected a module, a state dict or a path")


def _build(spec: NetSpec, tensors: Mapping[str, Tensor]) -> NeuralGraph:
    used = {name: tensors[name] for name in spec.params if name in tensors}
    for name, tensor in used.items():
        if tensor.is_meta or not tensor.is_floating_point():
            kind = "no values (it is on the meta device)" if tensor.is_meta else f"type {tensor.dtype}"
            raise ConversionError(f"{name!r} has {kind}; expected floating point weights: load or dequantise them")
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ConversionError(f"{name!r} has {bad} NaN or infinite entries: repair the checkpoint or train again")
    slopes = {p.param for p in spec.node_params if p.field == "slope" and p.shape == (1,)}
    _refuse_shared({k: v for k, v in used.items() if k not in slopes}, tensors)
    try:
        return NeuralGraph.build(spec, {k: v.detach().clone() for k, v in used.items()})
    except SpecError as error:
        raise ConversionError(str(error)) from error


def _refuse_shared(used: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """A tensor under two names cannot follow two symmetries at once (one slope for all neurons follows none)."""
    names = {tensor.data_ptr(): name for name, tensor in used.items() if tensor.numel()}
    for name, tensor in tensors.items():
        first = names.get(tensor.data_ptr(), name)
        if first != name:
            raise ConversionError(f"{first!r} and {name!r} are one tensor: give the module and example_input= instead")
