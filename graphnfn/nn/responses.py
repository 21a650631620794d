"""Activations as the fused sweep needs them: value, slope times a vector, and the adjoints of both.

With ``x = sigma(z)`` and ``y = sigma'(z) r`` a sweep's backward pass needs, given the cotangents of y and x,
``r* += sigma'(z) y*`` and ``z* = sigma'(z) x* + sigma''(z) r y*``. Common activations have these in closed form from x
alone; any other goes through autograd, level by level, with the same numbers as :meth:`Level.activate`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from graphnfn.activations import Activation
from graphnfn.nn.wiring import Level

aten = torch.ops.aten


class Response(Protocol):
    """One level's activation on some of the networks.

    Attributes:
        scale: omega; the sweep hands in ``omega z`` in place of z, which saves a pass.
        keeps: whether something of z is kept beside x.
    """

    scale: float
    keeps: bool

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        """Writes sigma(z) to x and what is kept to z; both are one tensor where nothing is."""
        ...

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        """A new tensor ``sigma'(z) r`` (for sin and cos over omega, as in ``value_and_slope``)."""
        ...

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        """Adds ``sigma'(z) dy`` to dr; what the curvature gives goes into dx or comes back for :meth:`through`."""
        ...

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        """The cotangent of ``scale * z``."""
        ...


class Identity:
    """``x = z``: outputs, linear bottlenecks, and rows that mix neurons."""

    scale, keeps = 1.0, False

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        pass

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return r.clone()  # the sweep scales it in place

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        dr.add_(dy)
        return None

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return dx


class Relu(Identity):
    """``x = max(z, 0)``: the sign of x is that of the slope."""

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        z.relu_()

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return aten.threshold_backward(r, x, 0)

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        dr.add_(aten.threshold_backward(dy, x, 0))
        return None

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return aten.threshold_backward(dx, x, 0)


class Tanh(Identity):
    """``sigma' = 1 - x^2`` and ``sigma'' = -2 x sigma'``."""

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        z.tanh_()

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return aten.tanh_backward(r, x)

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        dr.add_(aten.tanh_backward(dy, x))
        dx.addcmul_(torch.mul(r, dy), x, value=-2.0)  # the factor sigma' comes with ``through``
        return None

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        return aten.tanh_backward(dx, x)


class Wave:
    """sin and cos of ``omega z``: the slope over omega is kept, and its own derivative is ``-x``."""

    keeps = True

    def __init__(self, omega: float, *, cosine: bool) -> None:
        self.scale, self.cosine = omega, cosine

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        if self.cosine:
            torch.cos(z, out=x)
            z.sin_().neg_()
        else:
            torch.sin(z, out=x)
            z.cos_()

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        assert kept is not None
        return r * kept

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        assert kept is not None
        dr.addcmul_(kept, dy)
        return dy.mul_(r)

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        assert kept is not None
        dz = dx.mul_(kept)
        return dz if bent is None else dz.addcmul_(bent, x, value=-1.0)


class General:
    """Any level, mixed ones included; z is kept, and derivatives come from autograd."""

    scale, keeps = 1.0, True

    def __init__(self, level: Level) -> None:
        self.level = level

    def _activate(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        slope = self.level.slope
        return self.level.activate(z, None if slope is None else slope[rows])

    def value(self, z: Tensor, x: Tensor, rows: slice) -> None:
        x.copy_(self._activate(z, rows)[0])

    def slope_times(self, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        assert kept is not None
        return r * self._activate(kept, rows)[1]

    def meet(
        self, dy: Tensor, dr: Tensor, dx: Tensor, r: Tensor, x: Tensor, kept: Tensor | None, rows: slice
    ) -> Tensor | None:
        assert kept is not None
        dr.addcmul_(self._activate(kept, rows)[1], dy)
        return dy.mul_(r)

    def through(self, dx: Tensor, bent: Tensor | None, x: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        assert kept is not None
        with torch.enable_grad():
            z = kept.detach().requires_grad_()
            value, slope = self._activate(z, rows)
            ends, weights = [value], [dx]
            if bent is not None and slope.requires_grad:
                ends, weights = [value, slope], [dx, bent]
            return torch.autograd.grad(ends, [z], weights)[0]


def response_of(level: Level) -> Response:
    """The cheapest response that computes a level's activation.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.nn.blocks import BlockWiring
        >>> from graphnfn.testing import random_graph
        >>> wiring = BlockWiring(random_graph(mlp_spec([2, 4, 1], "relu")).stacks()[0])
        >>> [type(response_of(level)).__name__ for level in wiring.levels]
        ['Identity', 'Relu', 'Identity']
    """
    if level.role == "input":
        return IDENTITY
    return (known_response(level.parts[0][0]) if len(level.parts) == 1 else None) or General(level)


IDENTITY = Identity()


@lru_cache(maxsize=256)
def known_response(act: Activation) -> Response | None:
    """The response in closed form, where there is one."""
    if not act.rule.elementwise or act.name == "identity":
        return IDENTITY
    if act.name in ("sin", "cos"):
        return Wave(act.parameter, cosine=act.name == "cos")
    return Relu() if act.name == "relu" else Tanh() if act.name == "tanh" else None
