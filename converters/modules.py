"""The spec of a module, read off its traced graph: one chain of layers, functions and methods."""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from converters import rules
from converters.tracing import name_of, shapes, trace
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError, SpecError, SymmetryError
from graphnfn.spec import NetSpec, SpatialOp

_MULTIPLY = (operator.mul, torch.mul, "mul")
_POWER = (operator.pow, torch.pow, "pow")
_SQUARE = (torch.square, "square")
_FLATTEN = (torch.flatten, "flatten")
_RESHAPE = (torch.reshape, "view", "reshape")
_MEAN = (torch.mean, "mean")

_ROOT = "root"
Layout = Literal["input", "neurons", "positions", "flat"]
"""What lies behind the batch axis: not known yet, neurons, channels with positions, or those in one axis."""


def module_spec(module: nn.Module, example_input: Tensor | None) -> NetSpec:
    """Trace a module and describe it layer by layer.

    Raises:
        ConversionError: it cannot be traced, is no single chain, or has a part without a rule.
    """
    bare = rules.layer_type(module) is not None
    root = nn.Sequential() if bare else module
    if bare:
        root.add_module(_ROOT, module)  # a layer alone has no forward of its own to trace
    traced = trace(root)
    walk = _Walk(root, shapes(traced, example_input) if example_input is not None else {}, example_input)
    for node in traced.graph.nodes:
        try:
            walk.visit(node)
        except (SpecError, SymmetryError, ConversionError) as error:
            raise ConversionError(f"{name_of(node, root)}: {error}") from error
    try:
        return walk.chain_so_far().build()
    except SpecError as error:
        raise ConversionError(str(error)) from error


class _Walk:
    """Follows the one value that runs through the chain."""

    def __init__(self, root: nn.Module, shapes: dict[str, tuple[int, ...]], example: Tensor | None) -> None:
        self.root, self.shapes = root, shapes
        self.example_shape = None if example is None else tuple(example.shape[1:])
        self.chain: ChainBuilder | None = None
        self.value: fx.Node | None = None
        self.sizes: set[fx.Node] = set()
        self.layout: Layout = "input"
        self.activated = self.pooled_to_one = False
        self.layers: set[str] = set()
        self.factor: float | None = None
        self.held: tuple[Activation, str | None, int] | None = None
        self.early: list[SpatialOp] = []

    def visit(self, node: fx.Node) -> None:
        """Take the next operation in.

        Raises:
            GraphNFNError: it has no rule, or no place here.
        """
        if node.op == "placeholder":
            if self.value is not None and node.users:
                raise ConversionError("two inputs; one chain has one input")
            self.value = self.value or node
        elif node.op == "output":
            if node.args[0] is not self.value or self.factor is not None:
                raise ConversionError(f"the output is not the end of one chain; supported: {rules.SUPPORTED}")
        elif self._is_size(node):
            self.sizes.add(node)
        else:
            self._follow(node)
            if node.op == "call_module":
                self._module(str(node.target), self.root.get_submodule(str(node.target)), node)
            elif node.op in ("call_function", "call_method"):
                self._function(node)
            else:
                raise ConversionError(f"no rule; supported: {rules.SUPPORTED}")
            self.value = node

    def chain_so_far(self) -> ChainBuilder:
        """The chain with everything that was visited.

        Raises:
            ConversionError: there was no layer.
        """
        if self.chain is None:
            raise ConversionError(f"no Linear or Conv layer before it; supported: {rules.SUPPORTED}")
        if self.held is not None:
            activation, slope, size = self.held
            self.chain.activation(activation, slope=slope, slope_size=size)
            self.held = None
        return self.chain

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
        if self.factor is not None and node.target not in rules.PERIODIC:
            raise ConversionError(f"a factor {self.factor} in front of it; supported in front of sin and cos only")

    # ---- rules --------------------------------------------------------------------------------

    def _module(self, name: str, module: Any, node: fx.Node) -> None:
        kind = rules.layer_type(module)
        if isinstance(module, rules.SKIPPED_MODULES):
            return
        if kind is not None:
            self._layer(name, module, kind)
        elif isinstance(module, nn.Flatten):
            self._flatten(node, module.start_dim, module.end_dim)
        elif type(module) in rules.POOL_MODULES:
            self._pool(rules.POOL_MODULES[type(module)](module))
        elif type(module) in rules.SOFTMAX_MODULES:
            self._softmax(rules.SOFTMAX_MODULES[type(module)], module.dim)
        else:
            self._hold(rules.activation_of(module))

    def _function(self, node: fx.Node) -> None:
        target: Any = node.target
        rest: Any = node.args[1:]
        options: dict[str, Any] = {k: v for k, v in node.kwargs.items() if not isinstance(v, fx.Node)}
        if target in rules.SKIPPED_FUNCTIONS or target in rules.SKIPPED_METHODS:
            return
        if target in rules.PERIODIC:
            self._hold(Activation(rules.PERIODIC[target], self.factor))
            self.factor = None
        elif target in rules.FUNCTION_MODULES:
            self._hold(rules.activation_of(rules.FUNCTION_MODULES[target](*rest, **options)))
        elif target in rules.PLAIN_FUNCTIONS:
            self._hold(Activation(rules.PLAIN_FUNCTIONS[target]))
        elif target in rules.SOFTMAX_FUNCTIONS:
            self._softmax(rules.SOFTMAX_FUNCTIONS[target], rest[0] if rest else options.get("dim"))
        elif target in rules.POOL_FUNCTIONS:
            module = rules.POOL_FUNCTIONS[target](*rest, **options)
            self._pool(rules.POOL_MODULES[type(module)](module))
        else:
            self._arithmetic(node, rest, options)

    def _arithmetic(self, node: fx.Node, rest: Any, options: dict[str, Any]) -> None:
        target: Any = node.target
        constants: list[Any] = [a for a in (*node.args, *options.values()) if not isinstance(a, fx.Node)]
        constant = constants[0] if len(constants) == 1 and isinstance(constants[0], (int, float)) else None
        if target in _MULTIPLY and constant:
            self.factor = float(constant)
        elif target in _POWER and constant and node.args[0] is self.value:
            self._power(float(constant))
        elif target in _SQUARE:
            self._power(2.0)
        elif target in _FLATTEN:
            start, end = dict(enumerate(rest)).get(0, 0), dict(enumerate(rest)).get(1, -1)
            self._flatten(node, options.get("start_dim", start), options.get("end_dim", end))
        elif target in _RESHAPE:
            self._view(node, rest)
        elif target in _MEAN:
            self._mean(options.get("dim", rest[0] if rest else None), bool(options.get("keepdim", False)))
        else:
            raise ConversionError(f"no rule; supported: {rules.SUPPORTED}")

    # ---- layers -------------------------------------------------------------------------------

    def _layer(self, name: str, module: Any, kind: type[nn.Module]) -> None:
        missing = {"weight"} - dict(module.named_parameters(recurse=False)).keys()
        if missing and (kind not in rules.NORMS or module.affine):
            raise ConversionError("its weight is computed from other parameters (weight norm, pruning): make it plain")
        if name in self.layers and not (kind is nn.PReLU and module.num_parameters == 1):
            raise ConversionError("used twice: layers that share weights are not supported yet")
        self.layers.add(name)
        key = f"{name}.".removeprefix(f"{_ROOT}.")
        if kind is nn.PReLU:
            self._hold(Activation("prelu"), f"{key}weight", module.num_parameters)
        elif kind in rules.NORMS:
            self._norm(key, module)
        elif kind is nn.Linear:
            self._linear(key, module)
        else:
            self._conv(key, module)

    def _start(self, inputs: int, *, dense: bool) -> ChainBuilder:
        """The chain, ready for a layer; the first layer tells the number of inputs."""
        if self.chain is None:
            # without a Flatten, a Linear acts on the last axis, whatever axes are in front of it
            shape = (inputs,) if self.layout == "input" and dense else self.example_shape
            self.chain = ChainBuilder(inputs, shape)
            for op in self.early:
                self.chain.spatial(op)
        return self.chain_so_far()

    def _linear(self, key: str, module: nn.Linear) -> None:
        if self.layout == "positions":
            raise ConversionError("a Linear on channels with positions: supported behind a Flatten or a global pooling")
        bias = None if module.bias is None else f"{key}bias"
        self._start(module.in_features, dense=True).linear(f"{key}weight", tuple(module.weight.shape), bias=bias)
        self.layout, self.activated = "neurons", False

    def _conv(self, key: str, module: Any) -> None:
        if self.layout not in ("input", "positions"):
            raise ConversionError("a convolution behind a Flatten or a Linear: not supported")
        if module.groups != 1 or module.padding_mode != "zeros":
            raise ConversionError(
                f"groups={module.groups}, padding_mode={module.padding_mode!r}: only groups=1 and zeros are supported"
            )
        self._start(module.in_channels, dense=False).conv(
            f"{key}weight", tuple(module.weight.shape), bias=None if module.bias is None else f"{key}bias",
            stride=module.stride, padding=rules.conv_padding(module), dilation=module.dilation,
        )  # fmt: skip
        self.layout, self.activated, self.pooled_to_one = "positions", False, False

    def _norm(self, key: str, module: Any) -> None:
        if not module.track_running_stats or module.running_mean is None:
            raise ConversionError("batch norm without running statistics depends on the batch: not supported")
        if self.held is not None:
            raise ConversionError("batch norm after an activation: supported directly after a Linear or Conv layer")
        chain = self.chain_so_far()
        if module.num_features != chain.width:
            raise ConversionError(f"batch norm of {module.num_features} features behind {chain.width} neurons")
        names = {"norm_mean": f"{key}running_mean", "norm_var": f"{key}running_var"}
        if module.affine:
            names |= {"norm_weight": f"{key}weight", "norm_bias": f"{key}bias"}
        chain.norm(names, module.eps)

    # ---- activations --------------------------------------------------------------------------

    def _hold(self, activation: Activation, slope: str | None = None, size: int = 1) -> None:
        """Keep an activation until the next step: relu may still become relu ** k."""
        width = self.chain_so_far().width
        if size not in (1, width):
            raise ConversionError(f"{size} slopes for {width} neurons: supported are one, or one per neuron")
        if self.activated:
            raise ConversionError("two activations behind one layer: supported is one")
        self.held, self.activated = (activation, slope, size), True

    def _power(self, power: float) -> None:
        if self.held is None or self.held[0] != Activation("relu") or power <= 0:
            raise ConversionError(f"power {power} here: supported are positive powers of a ReLU")
        self.held = (Activation("relu_power", power), None, 1)

    def _softmax(self, name: str, dim: int | None) -> None:
        """Softmax over the outputs: only there, the axis of neurons is what users mean."""
        allowed = {"neurons": (1, -1, None), "positions": (1,)}.get(self.layout, ())
        if dim not in allowed:
            raise ConversionError(f"{name} over axis {dim} here: supported over all neurons of a layer, axis 1")
        self._hold(Activation(name))

    # ---- positions ----------------------------------------------------------------------------

    def _pool(self, op: SpatialOp) -> None:
        if self.layout not in ("input", "positions"):
            raise ConversionError("pooling behind a Flatten or a Linear: not supported")
        self._spatial(op)
        self.layout = "positions"
        self.pooled_to_one = op.kind.startswith("adaptive") and set(op.size) == {1}

    def _spatial(self, op: SpatialOp) -> None:
        if self.chain is None:
            self.early.append(op)
        else:
            self.chain_so_far().spatial(op)

    def _flatten(self, node: fx.Node, start: int = 1, end: int = -1) -> None:
        if (start, end) != (1, -1):
            raise ConversionError(f"flatten from axis {start} to {end}: supported is from 1 to -1, all but the batch")
        before = self.shapes.get(self.value.name, ()) if self.value is not None else ()
        if before and self.shapes[node.name][0] != before[0]:
            raise ConversionError(f"turns shape {before} into {self.shapes[node.name]}: the batch axis must stay")
        if self.chain is None:
            if self.early:
                raise ConversionError("pooling of the input in front of a Linear: not supported")
            self.layout = "neurons"
        elif self.layout == "positions":
            self._spatial(SpatialOp("flatten", tuple(before[2:])))
            self.layout = "neurons" if self.pooled_to_one else "flat"

    def _view(self, node: fx.Node, rest: Any) -> None:
        given: Any = node.kwargs.get("shape", rest[0] if len(rest) == 1 else rest)
        batch, last = given if isinstance(given, (tuple, list)) and len(given) == 2 else (None, None)
        whole = isinstance(batch, fx.Node) and (last == -1 or isinstance(last, int))
        if not whole and not (batch == -1 and isinstance(last, int)):
            raise ConversionError(f"reshape to {given}: only (batch, -1) and (-1, features) are supported")
        self._flatten(node)

    def _mean(self, dims: Any, keepdim: bool) -> None:
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        rank = self.chain_so_far().rank
        if self.layout != "positions" or sorted(d % (rank + 2) for d in dims) != list(range(2, rank + 2)):
            raise ConversionError(f"mean over {dims}: only the mean over all positions is supported")
        if keepdim:
            self._pool(SpatialOp("adaptive_avg_pool", (1,) * rank))
        else:
            self._spatial(SpatialOp("global_avg_pool"))
            self.layout = "neurons"
