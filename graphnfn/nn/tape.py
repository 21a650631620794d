"""One run of the native sweep and its adjoint, chunk by chunk, on buffers per level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from graphnfn.nn.links import Link
from graphnfn.nn.responses import Response
from graphnfn.nn.seen import seen, seen_adjoint
from graphnfn.nn.wiring import Level


@dataclass
class Tape:
    """Everything that a sweep reads and writes; lists run over the levels.

    Args:
        levels: in topological order.
        responses: their activations.
        links: the blocks.
        mix: a, b, c of every level, ``[3, d]``.
        beta: factors of the biases, None where they are 1.
        ends: states ``[1 or B, n, d]`` at the output levels, None elsewhere.
        answer, offset: weight and bias of the linear map from outputs to returned states.
        even: features to add to.
        x, kept, back, root: activations, what the responses keep, returned states, and ``seen``'s roots.
    """

    levels: list[Level]
    responses: list[Response]
    links: list[Link]
    mix: list[Tensor]
    beta: list[Tensor | None]
    ends: list[Tensor | None]
    answer: Tensor
    offset: Tensor
    even: list[Tensor]
    x: list[Tensor]
    kept: list[Tensor | None]
    back: list[Tensor]
    root: list[Tensor]

    @cached_property
    def incoming(self) -> list[list[Link]]:
        """Per level, the links that lead to it."""
        return [[k for k in self.links if k.dst == i] for i in range(len(self.levels))]

    @cached_property
    def scaled(self) -> dict[int, Tensor]:
        """By the id of a link, its gain times omega of the level that it leads to."""
        return {id(k): k.gain * self.responses[k.dst].scale for k in self.links}

    def expect_grads(self, biases: bool) -> None:
        """Make room for the cotangents; those of biases only where they are wanted."""
        self.mix_grads = [torch.zeros_like(mix) for mix in self.mix]
        self.beta_grads = [None if beta is None else torch.zeros_like(beta) for beta in self.beta]
        self.bias_grads = [torch.zeros_like(v.bias) if biases else None for v in self.levels]
        self.start_grads = [
            torch.empty_like(x) if v.role == "input" else x for x, v in zip(self.x, self.levels, strict=True)
        ]
        self.end_grads: list[list[Tensor]] = [[] for _ in self.levels]
        self.answer_grad, self.offset_grad = torch.zeros_like(self.answer), torch.zeros_like(self.offset)

    def run(self, rows: slice, out: list[Tensor]) -> None:
        """Down, up, and what the neurons see, for some of the networks."""
        for i, level in enumerate(self.levels):
            if level.role != "input":
                self._activate(i, rows)
        touched: set[int] = set()
        for i in reversed(range(len(self.levels))):
            self._return(i, rows, touched)
            x, y, even = (values[i][rows] for values in (self.x, self.back, self.even))
            seen(self.levels[i].signed, x, y, even, self.mix[i], self.root[i][rows], out[i][rows])

    def _activate(self, i: int, rows: slice) -> None:
        response, x, kept = self.responses[i], self.x[i][rows], self.kept[i]
        z = x if kept is None else kept[rows]
        start, beta = self.levels[i].bias[rows] * response.scale, self.beta[i]
        if beta is not None:
            start = torch.mul(start, beta, out=z)
        for link in self.incoming[i]:
            link.pull(z, start, self.x[link.src][rows], rows, self.scaled[id(link)])
            start = z
        response.value(z, x, rows)

    def _return(self, i: int, rows: slice, touched: set[int]) -> None:
        back, ends = self.back[i][rows], self.ends[i]
        if ends is not None:
            torch.add(linear(self.x[i][rows], self.answer, self.offset), _some(ends, rows), out=back)
        elif i not in touched:
            back.zero_()  # a hidden neuron that leads nowhere
        if not self.incoming[i]:
            return
        y = self._slope_times(i, rows)
        for number, link in enumerate(self.incoming[i], 1):
            first, last = link.src not in touched, number == len(self.incoming[i])
            link.push(y, rows, self.back[link.src][rows], first=first, last=last)
            touched.add(link.src)

    def _slope_times(self, i: int, rows: slice) -> Tensor:
        kept = self.kept[i]
        return self.responses[i].slope_times(
            self.back[i][rows], self.x[i][rows], None if kept is None else kept[rows], rows
        )

    def adjoint(self, rows: slice, even_grads: list[Tensor | None], x_grads: list[Tensor | None]) -> None:
        """Cotangents of everything from those of the even features and activations, for some of the networks."""
        dx, dr = [], []
        for i, level in enumerate(self.levels):
            x, y, even_grad, x_grad = self.x[i][rows], self.back[i][rows], even_grads[i], x_grads[i]
            if even_grad is None:
                one, two = torch.zeros_like(x), torch.zeros_like(y)
            else:
                root = self.root[i][rows]
                one, two, mix = seen_adjoint(level.signed, x, y, self.mix[i], root, even_grad[rows])
                self.mix_grads[i] += mix
            dx.append(one if x_grad is None else one.add_(x_grad[rows]))
            dr.append(two)
        bent = [self._up_adjoint(i, rows, dx, dr) for i in range(len(self.levels))]
        for i in reversed(range(len(self.levels))):
            if self.levels[i].role == "input":
                self.start_grads[i][rows] = dx[i]
            else:
                self._down_adjoint(i, rows, dx, bent[i])

    def _up_adjoint(self, i: int, rows: slice, dx: list[Tensor], dr: list[Tensor]) -> Tensor | None:
        x, kept, bent = self.x[i][rows], self.kept[i], None
        if self.incoming[i]:
            y = self._slope_times(i, rows)
            first, *others = [link.push_adjoint(dr[link.src], y, rows) for link in self.incoming[i]]
            for other in others:
                first.add_(other)
            some = None if kept is None else kept[rows]
            bent = self.responses[i].meet(first, dr[i], dx[i], self.back[i][rows], x, some, rows)
        if self.ends[i] is not None:
            flat = dr[i].flatten(0, 1)
            self.answer_grad.addmm_(flat.T, x.flatten(0, 1))
            self.offset_grad += flat.sum(0)
            self.end_grads[i].append(dr[i])
            dx[i] = dx[i] + linear(dr[i], self.answer.T)
        return bent

    def _down_adjoint(self, i: int, rows: slice, dx: list[Tensor], bent: Tensor | None) -> None:
        response, kept, beta = self.responses[i], self.kept[i], self.beta[i]
        dz = response.through(dx[i], bent, self.x[i][rows], None if kept is None else kept[rows], rows)
        bias, bias_grad = self.levels[i].bias[rows], self.bias_grads[i]
        if beta is not None:
            if beta.dim() == 1:
                found = bias.reshape(1, -1) @ dz.flatten(0, 1)
            else:
                found = (bias * dz).sum(0)
            before = self.beta_grads[i]
            assert before is not None
            before += response.scale * found.view_as(beta)
        if bias_grad is not None:
            bias_grad[rows] = response.scale * (dz if beta is None else dz * beta).sum(-1, keepdim=True)
        for link in self.incoming[i]:
            gain = self.scaled[id(link)]
            link.pull_adjoint(dz, self.x[link.src][rows], rows, gain, response.scale, dx[link.src])

    def end_grad(self, i: int) -> Tensor:
        """The cotangent of a level's ``ends``."""
        grads = self.end_grads[i]
        whole = grads[0] if len(grads) == 1 else torch.cat(grads)
        ends = self.ends[i]
        return whole.sum(0, keepdim=True) if ends is not None and len(ends) == 1 else whole


def _some(ends: Tensor, rows: slice) -> Tensor:
    return ends if len(ends) == 1 else ends[rows]
