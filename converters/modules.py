"""The spec of a module, read off its traced graph: one chain of layers, functions and methods."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from converters import rules
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError, SpecError, SymmetryError
from graphnfn.spec import NetSpec, SpatialOp

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MULTIPLY = (operator.mul, torch.mul, "mul")
_POWER = (operator.pow, torch.pow, "pow")
_FLATTEN = (torch.flatten, "flatten")
_RESHAPE = (torch.reshape, "view", "reshape")
_MEAN = (torch.mean, "mean")


def module_spec(module: nn.Module, example_input: Tensor | None) -> NetSpec:
    """Trace a module and describe it layer by layer.

    Raises:
        ConversionError: it cannot be traced, is no single chain, or has a part without a rule.
    """
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        name = type(module).__name__
        raise ConversionError(f"{name} cannot be traced ({error}); supported: {rules.SUPPORTED}") from error
    walk = _Walk(module, _shapes(traced, example_input) if example_input is not None else {}, example_input)
    for node in traced.graph.nodes:
        try:
            walk.visit(node)
        except (SpecError, SymmetryError, ConversionError) as error:
            raise ConversionError(f"{_name(node, module)}: {error}") from error
    return walk.finish()


def _shapes(traced: fx.GraphModule, example_input: Tensor) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n.name] = tuple(value.shape)
            return value

    was_training = traced.training
    try:
        with torch.no_grad():
            Recorder(traced.eval()).run(example_input)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConversionError(f"example_input of shape {tuple(example_input.shape)} does not run: {first}") from error
    finally:
        traced.train(was_training)
    return shapes


def _name(node: fx.Node, module: nn.Module) -> str:
    if node.op == "call_module":
        return f"{node.target!r} ({type(module.get_submodule(str(node.target))).__name__})"
    return f"{node.op.removeprefix('call_')} {getattr(node.target, '__name__', node.target)}"


class _Walk:
    """Follows the one value that runs through the chain."""

    def __init__(self, root: nn.Module, shapes: dict[str, tuple[int, ...]], example: Tensor | None) -> None:
        self.root, self.shapes, self.example = root, shapes, example
        self.chain: ChainBuilder | None = None
        self.value: fx.Node | None = None
        self.sizes: set[fx.Node] = set()
        self.factor: float | None = None
        self.held: tuple[Activation, str | None, int] | None = None
        self.early: list[SpatialOp] = []

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.value is not None:
                raise ConversionError("two inputs; one chain has one input")
            self.value = node
        elif node.op == "output":
            if node.args[0] is not self.value:
                raise ConversionError(f"the output is not the end of one chain; supported: {rules.SUPPORTED}")
        elif self._is_size(node):
            self.sizes.add(node)
        else:
            self._follow(node)
            self._apply(node)
            self.value = node

    def finish(self) -> NetSpec:
        chain = self._ready()
        self._release()
        try:
            return chain.build()
        except SpecError as error:
            raise ConversionError(str(error)) from error

    # ---- following ----------------------------------------------------------------------------

    def _is_size(self, node: fx.Node) -> bool:
        """``x.size(0)``, ``x.shape[0]`` and the like, which views use."""
        if node.op == "call_method" and node.target == "size":
            return True
        if node.op != "call_function":
            return False
        return (node.target is getattr and node.args[1] == "shape") or (
            node.target is operator.getitem and node.args[0] in self.sizes
        )

    def _follow(self, node: fx.Node) -> None:
        tensors = [a for a in node.all_input_nodes if a not in self.sizes]
        if tensors != [self.value]:
            raise ConversionError(
                f"takes {[t.name for t in tensors]} instead of the value before it: branches, skips and shared inputs "
                f"are not supported yet; supported: {rules.SUPPORTED}"
            )

    def _apply(self, node: fx.Node) -> None:
        if self.factor is not None and node.target not in rules.PERIODIC:
            raise ConversionError(f"a factor {self.factor} in front of it; supported in front of sin and cos only")
        if node.op == "call_module":
            self._module(str(node.target), self.root.get_submodule(str(node.target)), node)
        elif node.op in ("call_function", "call_method"):
            self._function(node)
        else:
            raise ConversionError(f"no rule; supported: {rules.SUPPORTED}")

    # ---- rules --------------------------------------------------------------------------------

    def _module(self, name: str, module: nn.Module, node: fx.Node) -> None:
        kind = type(module)
        if isinstance(module, rules.SKIPPED_MODULES):
            return
        if isinstance(module, nn.Linear):
            self._start(module.in_features).linear(
                f"{name}.weight", tuple(module.weight.shape), bias=None if module.bias is None else f"{name}.bias"
            )
        elif isinstance(module, _CONVS):
            self._conv(name, module)
        elif isinstance(module, _NORMS):
            self._norm(name, module)
        elif isinstance(module, nn.PReLU):
            self._hold(Activation("prelu"), f"{name}.weight", module.num_parameters)
        elif kind in rules.ACTIVATION_MODULES:
            self._hold(rules.ACTIVATION_MODULES[kind](module))
        elif kind in rules.POOL_MODULES:
            self._spatial(rules.POOL_MODULES[kind](module))
        elif isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise ConversionError(
                    f"Flatten({module.start_dim}, {module.end_dim}): only Flatten(1, -1) is supported"
                )
            self._flatten(node)
        else:
            raise ConversionError(f"no rule for {kind.__name__}; supported: {rules.SUPPORTED}")

    def _function(self, node: fx.Node) -> None:
        target: Any = node.target
        rest: Any = node.args[1:]
        options: dict[str, Any] = dict(node.kwargs)
        if target in rules.SKIPPED_FUNCTIONS or target in rules.SKIPPED_METHODS:
            return
        if target in rules.PERIODIC:
            self._hold(Activation(rules.PERIODIC[target], self.factor))
            self.factor = None
        elif target in rules.PARAMETRIC_FUNCTIONS:
            name, key, default = rules.PARAMETRIC_FUNCTIONS[target]
            self._hold(Activation(name, float(rest[0] if rest else options.get(key, default))))
        elif target is torch.nn.functional.gelu:
            self._hold(Activation("gelu_tanh" if node.kwargs.get("approximate") == "tanh" else "gelu"))
        elif node.op == "call_function" and target in rules.ACTIVATION_FUNCTIONS:
            self._hold(Activation(rules.ACTIVATION_FUNCTIONS[target]))
        elif node.op == "call_method" and target in rules.ACTIVATION_METHODS:
            self._hold(Activation(rules.ACTIVATION_METHODS[str(target)]))
        elif target in rules.POOL_FUNCTIONS:
            self._pool(node)
        else:
            self._arithmetic(node)

    def _arithmetic(self, node: fx.Node) -> None:
        target: Any = node.target
        constants: list[Any] = [a for a in node.args if not isinstance(a, fx.Node)]
        if target in _MULTIPLY and len(constants) == 1 and isinstance(constants[0], (int, float)):
            self.factor = float(constants[0])
        elif target in _POWER and self.held is not None and self.held[0].name == "relu":
            self.held = (Activation("relu_power", float(constants[0])), None, 1)
        elif target is torch.square and self.held is not None and self.held[0].name == "relu":
            self.held = (Activation("relu_power", 2.0), None, 1)
        elif target in _FLATTEN:
            start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
            if start != 1 or len(node.args) > 2 or node.kwargs.get("end_dim", -1) != -1:
                raise ConversionError("only flatten(x, 1) is supported: the batch axis must stay")
            self._flatten(node)
        elif target in _RESHAPE:
            shape = node.args[1:] if len(node.args) != 2 else node.args[1]
            if not isinstance(shape, (tuple, list)) or len(shape) != 2 or shape[1] != -1:
                raise ConversionError(f"reshape to {shape}: only (batch, -1) is supported")
            self._flatten(node)
        elif target in _MEAN:
            self._mean(node)
        else:
            raise ConversionError(f"no rule; supported: {rules.SUPPORTED}")

    # ---- layers -------------------------------------------------------------------------------

    def _start(self, inputs: int) -> ChainBuilder:
        """The chain, ready for a layer; the first layer tells the number of inputs."""
        if self.chain is None:
            shape = None if self.example is None else tuple(self.example.shape[1:])
            self.chain = ChainBuilder(inputs, shape)
            early = [op for op in self.early if op.kind != "flatten"]
            for op in early:
                self.chain.spatial(op)
        self._release()
        return self.chain

    def _ready(self) -> ChainBuilder:
        if self.chain is None:
            raise ConversionError(f"no Linear or Conv layer before it; supported: {rules.SUPPORTED}")
        return self.chain

    def _hold(self, activation: Activation, slope: str | None = None, size: int = 1) -> None:
        """Keep an activation until the next step: relu may still become relu ** k."""
        self._ready()
        self._release()
        self.held = (activation, slope, size)

    def _release(self) -> None:
        if self.held is not None:
            activation, slope, size = self.held
            self._ready().activation(activation, slope=slope, slope_size=size)
            self.held = None

    def _spatial(self, op: SpatialOp) -> None:
        if self.chain is None:
            self.early.append(op)
            return
        self._release()
        self.chain.spatial(op)

    def _flatten(self, node: fx.Node) -> None:
        before = self.shapes.get(self.value.name, ()) if self.value is not None else ()
        self._spatial(SpatialOp("flatten", tuple(before[2:])))

    def _conv(self, name: str, module: Any) -> None:
        if module.groups != 1 or module.padding_mode != "zeros":
            raise ConversionError(
                f"groups={module.groups}, padding_mode={module.padding_mode!r}: only groups=1 and zeros are supported"
            )
        self._start(module.in_channels).conv(
            f"{name}.weight", tuple(module.weight.shape), bias=None if module.bias is None else f"{name}.bias",
            stride=module.stride, padding=_padding(module), dilation=module.dilation,
        )  # fmt: skip

    def _norm(self, name: str, module: Any) -> None:
        if not module.track_running_stats or module.running_mean is None:
            raise ConversionError("batch norm without running statistics depends on the batch: not supported")
        self._ready()
        if self.held is not None:
            raise ConversionError("batch norm after an activation: supported directly after a Linear or Conv layer")
        names = {"norm_mean": f"{name}.running_mean", "norm_var": f"{name}.running_var"}
        if module.affine:
            names |= {"norm_weight": f"{name}.weight", "norm_bias": f"{name}.bias"}
        self._ready().norm(names, module.eps)

    def _pool(self, node: fx.Node) -> None:
        kind, rank = rules.POOL_FUNCTIONS[node.target]
        if kind in ("adaptive_avg_pool", "adaptive_max_pool"):
            size = node.args[1] if len(node.args) > 1 else node.kwargs["output_size"]
            self._spatial(rules.adaptive(kind, rank, size))
            return
        given: dict[str, Any] = dict(zip(rules.POOL_ARGUMENTS[kind], node.args[1:], strict=False)) | dict(node.kwargs)
        given["size"] = given.pop("kernel_size", given.get("size"))
        given.pop("return_indices", None)
        given.pop("divisor_override", None)
        self._spatial(rules.pool(kind, rank, given.pop("size"), **given))

    def _mean(self, node: fx.Node) -> None:
        dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        rank = self._ready().rank
        if not rank or sorted(d % (rank + 2) for d in dims) != list(range(2, rank + 2)):
            raise ConversionError(f"mean over {dims}: only the mean over all positions is supported")
        if node.kwargs.get("keepdim", False):
            self._spatial(SpatialOp("adaptive_avg_pool", (1,) * rank))
        else:
            self._spatial(SpatialOp("global_avg_pool"))


def _padding(module: Any) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding != "same":
        return tuple(module.padding)
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ConversionError(f"padding='same' with kernel {module.kernel_size} is not symmetric: not supported")
    return tuple(t // 2 for t in total)
