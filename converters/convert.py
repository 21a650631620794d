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
        if activation is not None or output_activation is not None:
            raise ConversionError("a module tells its activations itself: drop activation= and output_activation=")
        spec, tensors = module_spec(source, example_input), tensors_of(source)
    else:
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
    for name in spec.params:
        bad = int((~torch.isfinite(tensors[name])).sum()) if name in tensors else 0
        if bad:
            raise ConversionError(f"{name!r} has {bad} NaN or infinite entries: repair the checkpoint or train again")
    try:
        return NeuralGraph.build(spec, {k: v.detach().clone() for k, v in tensors.items() if k in spec.params})
    except SpecError as error:
        raise ConversionError(str(error)) from error
