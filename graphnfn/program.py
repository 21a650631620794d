"""Program: the operators of a traced network as plain data, and their executor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnfn.errors import SpecError


@dataclass(frozen=True)
class Ref:
    """A value by its name."""

    name: str


@dataclass(frozen=True)
class DType:
    """A PyTorch type by its name, e.g. ``float32``."""

    name: str


@dataclass(frozen=True)
class Op:
    """One operator: ``name = target(*args, **kwargs)``.

    ``target`` is an operator of PyTorch's ATen library such as ``aten.linear.default``, or ``getitem``, which takes
    one of several results.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    def refs(self) -> tuple[str, ...]:
        """The values that it reads, in order."""
        return tuple(_refs((self.args, self.kwargs)))


@dataclass(frozen=True)
class Program:
    """What a traced network computes, on inputs of the traced shapes.

    Args:
        inputs: names of the inputs.
        tensors: name of a value -> name of the tensor in the state dict.
        constants: name of a value -> its place among the constants, tensors that are not in the state dict.
        ops: in order of execution.
        outputs: names of the results.
    """

    inputs: tuple[str, ...]
    tensors: tuple[tuple[str, str], ...]
    constants: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> str:
        """The program as JSON text; :meth:`from_json` gives it back."""
        return json.dumps(
            {
                "inputs": self.inputs, "tensors": self.tensors, "constants": self.constants, "outputs": self.outputs,
                "ops": [[op.name, op.target, _pack(op.args), _pack(op.kwargs)] for op in self.ops],
            }
        )  # fmt: skip

    @staticmethod
    def from_json(text: str) -> Program:
        """Read :meth:`to_json`.

        Raises:
            SpecError: the text is not a program.
        """
        try:
            d = json.loads(text)
            ops = tuple(Op(name, target, _unpack(args), _unpack(kwargs)) for name, target, args, kwargs in d["ops"])
            tensors = tuple((a, b) for a, b in d["tensors"])
            return Program(tuple(d["inputs"]), tensors, tuple(d["constants"]), ops, tuple(d["outputs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"this text is not a Program ({error}); write it with Program.to_json") from error


def _refs(value: Any) -> list[str]:
    if isinstance(value, Ref):
        return [value.name]
    if isinstance(value, (tuple, list)):
        return [name for part in value for name in _refs(part)]
    return []


def _pack(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, complex) or (isinstance(value, float) and value != value) or value in (_INF, -_INF):
        return {"number": str(value)}
    return [_pack(v) for v in value] if isinstance(value, (tuple, list)) else value


_INF = float("inf")


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if "ref" in value:
            return Ref(value["ref"])
        return DType(value["dtype"]) if "dtype" in value else float(value["number"])
    return tuple(_unpack(v) for v in value) if isinstance(value, list) else value


def operator(target: str) -> Callable[..., Any]:
    """The function behind a target.

    Raises:
        SpecError: there is none; programs may call ATen operators only.
    """
    if target in _OWN:
        return _OWN[target]
    library, _, rest = target.partition(".")
    packet, _, overload = rest.partition(".")
    if library != "aten" or not packet.isidentifier() or not overload.isidentifier():
        raise SpecError(f"{target!r} is no ATen operator: a program may call those only")
    try:
        return getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError as error:
        raise SpecError(f"this PyTorch has no operator {target!r}: convert again with this version") from error


def _batch_norm(  # noqa: PLR0913 - the operator's own signature
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool,
    momentum: float, eps: float, cudnn: bool,
) -> Tensor:  # fmt: skip
    """In eval mode with gradients for the running statistics, too, which PyTorch's own does not give."""
    if training or mean is None or var is None:
        return torch.ops.aten.batch_norm.default(x, weight, bias, mean, var, training, momentum, eps, cudnn)
    gain = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    out = (x - mean.view(shape)) * gain.view(shape)
    return out if bias is None else out + bias.view(shape)


_OWN: dict[str, Callable[..., Tensor]] = {
    "aten.batch_norm.default": _batch_norm,
    "aten.view.default": torch.reshape,  # strides may be others than when it was traced
    "aten._unsafe_view.default": torch.reshape,
}


def execute(
    program: Program,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    constants: Sequence[Tensor] = (),
    observe: Callable[[str, Any], Any] | None = None,
    *,
    like: Tensor | None = None,
) -> tuple[Any, ...]:
    """Run a program.

    Floating-point types that the program names become the type of the tensors, so a program that was traced in
    float32 runs in float64.

    Args:
        program: what to run.
        tensors: the state dict.
        inputs: of the traced shapes.
        constants: of the program.
        observe: called with the name and value of every result; what it returns takes the value's place.
        like: a tensor of the type and on the device of the weights, where making one of them takes time.

    Raises:
        SpecError: a tensor is missing, or an operator does not exist.
    """
    if like is None:
        like = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    wide, device = like.dtype, like.device
    missing = [name for _, name in program.tensors if name not in tensors]
    if missing:
        raise SpecError(f"the program needs tensor {missing[0]!r}, which the state dict lacks")
    named = dict(program.tensors)
    values: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    values.update(zip(program.constants, constants, strict=True))
    last = {name: i for i, op in enumerate(program.ops) for name in op.refs()}
    kept = set(program.outputs)

    def resolve(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name] if value.name in values else tensors[named[value.name]]
        if isinstance(value, DType):
            dtype = getattr(torch, value.name)
            return wide if dtype.is_floating_point else dtype
        return [resolve(v) for v in value] if isinstance(value, (tuple, list)) else value

    for i, op in enumerate(program.ops):
        args, kwargs = resolve(op.args), {k: resolve(v) for k, v in op.kwargs}
        if op.target == "getitem":
            result = args[0][args[1]]
        else:
            function = operator(op.target)
            if not op.refs() and op.target not in _OWN and any(a.name == "device" for a in function._schema.arguments):  # type: ignore[attr-defined]
                kwargs["device"] = device
            result = function(*args, **kwargs)
        values[op.name] = result if observe is None else observe(op.name, result)
        for name in set(op.refs()):
            if last[name] == i and name not in kept and name in values:
                del values[name]
    return tuple(resolve(Ref(name)) for name in program.outputs)
