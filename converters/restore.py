"""``restore``: a neuron graph back into the checkpoint that it came from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from converters.convert import Source, tensors_of
from converters.files import write_like
from converters.modules import module_spec
from converters.tensors import tensors_spec
from graphnfn.activations import Activation
from graphnfn.effective import FOLDED_BIAS
from graphnfn.errors import ConversionError, SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.traced import TracedSpec


def restore(graph: NeuralGraph, like: Source) -> dict[str, Tensor]:
    """The state dict of ``like`` with the weights of the graph: same keys, order, shapes and dtypes.

    Bit-exact where nothing was changed; tensors that the graph does not hold are copied from ``like``.  If norms were
    folded (``fold_norm=True``), the folded weights are written and the norms are made neutral.

    Args:
        graph: one network.
        like: what it was converted from: module, state dict or path; it is left alone.

    Raises:
        ConversionError: ``like`` has other parameters than the graph, or its type cannot hold the graph's values.

    Example:
        >>> from converters import convert
        >>> module = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> state = restore(convert(module), like=module)
        >>> all(torch.equal(state[name], value) for name, value in module.state_dict().items())
        True
    """
    tensors = tensors_of(like)
    try:
        params = graph.state_dict()
    except SpecError as error:
        raise ConversionError(str(error)) from error
    extra = {name: params.pop(name) for name in list(params) if name.endswith(FOLDED_BIAS)}
    for name, value in params.items():
        if name not in tensors or tensors[name].shape != value.shape:
            got = "nothing" if name not in tensors else f"shape {tuple(tensors[name].shape)}"
            raise ConversionError(
                f"the graph has {name!r} of shape {tuple(value.shape)}; like= has {got} there: "
                "give the checkpoint that the graph was converted from"
            )
    out = {k: v.detach() if k in params else v.detach().clone() for k, v in tensors.items()}
    for name, value in params.items():
        out[name] = value.detach().to(device=tensors[name].device, dtype=tensors[name].dtype).clone()
        if not torch.isfinite(out[name]).all():
            raise ConversionError(
                f"{name!r} holds up to {value.abs().max():.3g}, which is not finite as {tensors[name].dtype}: "
                "canonicalize the graph first, or convert and restore in a wider type"
            )
    _follow_ties(out, params, tensors)
    if not isinstance(graph.spec, TracedSpec) and any(
        name.endswith("running_mean") for name in set(tensors) - set(params)
    ):
        _neutralise(out, params, extra, _spec_of(like, tensors))
    return out


def restore_file(graph: NeuralGraph, like: str | Path, output: str | Path) -> None:
    """Write :func:`restore` as a file (or folder) of the format of ``like``; every other byte stays as it is there.

    Args:
        graph: one network.
        like: the checkpoint that it was converted from, in any format; it is left alone.
        output: the new checkpoint; it appears whole or not at all.

    Raises:
        ConversionError: as :func:`restore`, or ``output`` cannot be written.

    Example:
        >>> import tempfile
        >>> from converters import convert
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(nn.Sequential(nn.Linear(2, 8)).state_dict(), f"{folder}/a.pt")
        ...     restore_file(convert(f"{folder}/a.pt"), f"{folder}/a.pt", f"{folder}/b.pt")
        ...     Path(f"{folder}/a.pt").read_bytes() == Path(f"{folder}/b.pt").read_bytes()
        True
    """
    write_like(Path(like), restore(graph, like=like), Path(output))


def _follow_ties(out: dict[str, Tensor], params: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Names that share their storage with a parameter of the graph share it afterwards."""
    mains = {(t.data_ptr(), t.shape, t.stride()): name for name, t in tensors.items() if name in params and t.numel()}
    for name, tensor in tensors.items():
        main = mains.get((tensor.data_ptr(), tensor.shape, tensor.stride()))
        if main is not None and name not in params:
            out[name] = out[main]


def _spec_of(like: Source, tensors: dict[str, Tensor]) -> NetSpec:
    """The spec with norms; activations do not matter here."""
    return module_spec(like, None) if isinstance(like, nn.Module) else tensors_spec(tensors, Activation("relu"), None)


def _neutralise(out: dict[str, Tensor], params: dict[str, Tensor], extra: dict[str, Tensor], spec: NetSpec) -> None:
    """Make folded norms the identity: weight 1, mean 0, var 1 - eps, bias 0 unless it took the layer's bias.

    A bias that has no parameter of its own goes into the mean, with the other sign.
    """
    for p in spec.node_params:
        eps = spec.groups[spec.position[p.group]].norm_eps
        if eps is None or p.param in params or p.field == "slope":
            continue
        value = {"norm_weight": 1.0, "norm_var": 1.0 - eps}.get(p.field, 0.0)
        out[p.param] = torch.full_like(out[p.param], value)
        shift = extra.get(f"{p.group}.{FOLDED_BIAS}")
        if p.field == "norm_mean" and shift is not None:
            out[p.param] = -shift.detach().to(out[p.param])
