"""Gradients of many MLPs at once, written out by hand: batched matrix products into buffers that are there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphnfn.spec import NetSpec

_ACTIVATIONS = ("sin", "tanh", "relu")
_BYTES = 4_500_000
"""Of activations and parameters: fewer networks share the cost of calling an operation, more leave the cache."""


def is_plain_mlp(spec: NetSpec) -> bool:
    """Whether a spec is a chain of dense layers with biases and one of sin, tanh, relu behind each but the last.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> is_plain_mlp(mlp_spec([2, 8, 1], "sin", omega=30.0)), is_plain_mlp(mlp_spec([2, 8, 1], "gelu"))
        (True, False)
    """
    biased = [p.group for p in spec.node_params] == [g.id for g in spec.groups[1:]]
    chain = [(b.src, b.dst) for b in spec.blocks]
    dense = all(b.kind == "linear" and b.view == b.shape and not (b.pre or b.post or b.part) for b in spec.blocks)
    acts = [{a.name for a in g.activations} for g in spec.groups]
    return (
        len(spec.groups) > 2
        and biased
        and chain == [(a.id, b.id) for a, b in zip(spec.groups, spec.groups[1:], strict=False)]
        and dense
        and all(b.num_taps == 1 and b.dims == (0, 1) for b in spec.blocks)
        and all(p.field == "bias" and p.shape == (spec.groups[spec.position[p.group]].size,) for p in spec.node_params)
        and len({b.param for b in spec.blocks}) == len(spec.blocks)
        and all(
            len(set(g.activations)) == 1 and a <= set(_ACTIVATIONS)
            for g, a in list(zip(spec.groups, acts, strict=True))[1:-1]
        )
        and acts[-1] == {"identity"}
        and all(g.norm_eps is None for g in spec.groups)
    )


def mlps_at_once(spec: NetSpec, samples: int) -> int:
    """How many networks are best trained at once, four at least; it changes none of them.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> [mlps_at_once(mlp_spec([2, 32, 32, 1], "sin", omega=30.0), n) for n in (64, 784)]
        [86, 10]
    """
    states = 2 * samples * sum(g.size for g in spec.groups[1:])
    return max(4, _BYTES // (4 * (states + 4 * spec.num_params)))


class PlainMLPs:
    """Outputs of many MLPs, and the gradients of their parameters.

    z_l = h_{l-1} W_l^T + b_l, h_l = sigma_l(z_l); back: d_l = (d_{l+1} W_{l+1}) * sigma_l'(z_l), dW_l = d_l^T h_{l-1},
    db_l = sum over samples of d_l. Factors omega of sin'(omega z) are put into dW and db at the end. Samples come
    first and neurons last, the outputs apart: these orientations have the fastest products.

    Args:
        spec: of :func:`is_plain_mlp`.
        theta: parameters in the order of the spec, ``[k, P]``, perhaps with further columns; read at every call.
        inputs: of all networks, ``[samples, inputs]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 8, 1], "tanh")
        >>> mlps = PlainMLPs(spec, torch.randn(3, spec.num_params), torch.randn(5, 2))
        >>> mlps.outputs().shape, mlps.gradient(torch.ones(3, 1, 5)).shape
        (torch.Size([3, 1, 5]), torch.Size([3, 33]))
    """

    def __init__(self, spec: NetSpec, theta: Tensor, inputs: Tensor) -> None:
        assert is_plain_mlp(spec)
        k, samples, sizes = len(theta), len(inputs), [g.size for g in spec.groups]
        self._acts = [g.activations[0] for g in spec.groups[1:-1]]
        self._omegas = [act.parameter if act.name == "sin" else 1.0 for act in self._acts] + [1.0]
        named = dict(zip(spec.params, _views(spec, theta), strict=True))
        self._weights = [named[b.param] for b in spec.blocks]
        self._biases = [named[p.param][:, None] for p in spec.node_params]
        self._scaled_biases = [torch.empty_like(b) for b in self._biases]
        self._weights_across = [w.transpose(1, 2) for w in self._weights]
        ones = torch.cat([inputs, inputs.new_ones(samples, 1)], 1).expand(k, -1, -1)
        self._inputs, self._inputs_across = ones.contiguous(), ones.transpose(1, 2).contiguous()
        self._first, self._first_grad = (inputs.new_empty(k, sizes[0] + 1, sizes[1]) for _ in range(2))
        self._states = [inputs.new_empty(k, samples, n) for n in sizes[1:-1]]  # h, on the way back d
        self._states_across = [h.transpose(1, 2) for h in self._states]
        self._slopes = [torch.empty_like(h) for h in self._states]  # z, then sigma'(z)
        self._outputs = inputs.new_empty(k, sizes[-1], samples)
        # bmm takes its fast kernel for contiguous results only: gradients are put together afterwards
        grads = {name: inputs.new_empty(k, *shape) for name, shape in spec.params.items()}
        self._parts = [grad.flatten(1) for grad in grads.values()]
        self._parts.append(theta.new_zeros(k, theta.shape[1] - spec.num_params))
        self._weight_grads = [grads[b.param] for b in spec.blocks]
        self._bias_grads = [grads[p.param] for p in spec.node_params]
        self._grad = torch.empty_like(theta)
        self._factors = self._grad.new_ones(theta.shape[1])
        factors = dict(zip(spec.params, _views(spec, self._factors[None]), strict=True))
        for i, (block, bias) in enumerate(zip(spec.blocks, spec.node_params, strict=True)):
            for name in (block.param, bias.param):
                factors[name].fill_(math.prod(self._omegas[i:]))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Outputs of the networks, ``[k, outputs, samples]``; valid until the next call."""
        torch.mul(self._weights_across[0], self._omegas[0], out=self._first[:, :-1])
        torch.mul(self._biases[0], self._omegas[0], out=self._first[:, -1:])
        torch.bmm(self._inputs, self._first, out=self._slopes[0])
        self._activate(0)
        for i, omega in enumerate(self._omegas[1:-1], 1):
            z, bias = self._slopes[i], self._scaled_biases[i]
            torch.bmm(self._states[i - 1], self._weights_across[i], out=z)
            torch.add(torch.mul(self._biases[i], omega, out=bias), z, alpha=omega, out=z)
            self._activate(i)
        torch.bmm(self._weights[-1], self._states_across[-1], out=self._outputs)
        return self._outputs.add_(self._biases[-1].transpose(1, 2))

    def _activate(self, i: int) -> None:
        z, h = self._slopes[i], self._states[i]
        if self._acts[i].name == "sin":
            torch.sin(z, out=h)
            torch.cos(z, out=z)
        elif self._acts[i].name == "tanh":
            torch.tanh(z, out=h)
            torch.sub(1, torch.mul(h, h, out=z), out=z)
        else:
            torch.clamp(z, min=0, out=h)
            torch.sign(h, out=z)

    @torch.no_grad()
    def gradient(self, cotangent: Tensor) -> Tensor:
        """d <cotangent, outputs> / d theta, of the shape of theta; after :meth:`outputs`, and once.

        Args:
            cotangent: ``[k, outputs, samples]``.
        """
        torch.bmm(cotangent, self._states[-1], out=self._weight_grads[-1])
        torch.sum(cotangent, 2, out=self._bias_grads[-1])
        d = cotangent.transpose(1, 2)
        for i in reversed(range(len(self._acts))):
            d = torch.bmm(d, self._weights[i + 1], out=self._states[i]).mul_(self._slopes[i])
            if i == 0:
                break
            torch.bmm(self._states_across[i], self._states[i - 1], out=self._weight_grads[i])
            torch.sum(d, 1, out=self._bias_grads[i])
        torch.bmm(self._inputs_across, d, out=self._first_grad)
        self._weight_grads[0].copy_(self._first_grad[:, :-1].transpose(1, 2))
        self._bias_grads[0].copy_(self._first_grad[:, -1])
        return torch.cat(self._parts, 1, out=self._grad).mul_(self._factors)

    def squares(self, targets: Tensor) -> Tensor:
        """The mean of (outputs - targets)^2, ``[k]``; targets are ``[k, outputs, samples]``."""
        return (self.outputs() - targets).square().mean((1, 2))

    def gradient_of_squares(self, targets: Tensor) -> Tensor:
        """d :meth:`squares` / d theta, of the shape of theta; valid until the next call."""
        return self.gradient(self.outputs().sub_(targets).mul_(2 / targets[0].numel()))


def _views(spec: NetSpec, theta: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in spec.params.values()]
    parts = theta[:, : spec.num_params].split(sizes, 1)
    return [part.view(len(theta), *shape) for part, shape in zip(parts, spec.params.values(), strict=True)]
