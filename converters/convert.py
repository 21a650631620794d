"""``convert``: one door for every source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.modules import module_spec
from converters.sources import read_tensors, state_dict_of
from converters.tensors import tensors_spec
from graphnfn import io
from graphnfn.activations import Activation, as_activation
from graphnfn.effective import fold_norms
from graphnfn.errors import ConversionError, SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

Source = nn.Module | Mapping[str, Tensor] | str | Path


def convert(
    source: Source,
    *,
    activation: str | Activation | None = None,
    omega: float | None = None,
    output_activation: str | Activation | None = None,
    fold_norm: bool = False,
    example_input: Tensor | None = None,
) -> NeuralGraph:
    """Turn a checkpoint of an MLP or a plain CNN into a neuron graph; :func:`converters.restore` leads back.

    Args:
        source: a module, a state dict, or the path of a .safetensors, .pt or .pth file (also one that
            :func:`graphnfn.save` wrote).
        activation: of all hidden layers, where a state dict cannot tell.
        omega: frequency, with ``activation`` sin or cos.
        output_activation: of the last layer, where a state dict cannot tell.
        fold_norm: fold batch norms into the layers before them.
        example_input: one batch for a module; records the input's shape and the positions behind a flatten.

    Raises:
        ConversionError: something is not supported, does not chain, is missing, damaged or not finite.

    Example:
        >>> graph = convert(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
        >>> [group.size for group in graph.spec.groups]
        [2, 8, 1]
    """
    if isinstance(source, (str, Path)) and io.is_graph_file(Path(source)):
        return io.load(source)
    if isinstance(source, nn.Module):
        if (activation, omega, output_activation) != (None, None, None):
            raise ConversionError("a module tells its activations itself: drop activation=, omega=, output_activation=")
        spec, tensors = module_spec(source, example_input), tensors_of(source)
    else:
        if example_input is not None:
            raise ConversionError("example_input= runs a module; a state dict cannot run: drop it, or give the module")
        if omega is not None and activation not in ("sin", "cos"):
            raise ConversionError(f"omega={omega} goes with activation='sin' or 'cos', not with {activation!r}")
        tensors = tensors_of(source)
        hidden = None if activation is None else as_activation(activation, omega)
        last = None if output_activation is None else as_activation(output_activation)
        spec = tensors_spec(tensors, hidden, last)
    graph = _build(spec, tensors)
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
        return read_tensors(Path(source))
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
            raise ConversionError(f"{first!r} and {name!r} are one tensor: shared weights are not supported yet")
