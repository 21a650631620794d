"""Gradients of many small CNNs at once, written out by hand: patches, and batched matrix products with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphnfn.functional import input_shape
from graphnfn.spec import Block, NetSpec, SpatialOp

_ACTIVATIONS = ("relu", "tanh")
_BYTES = 8_000_000
"""Of maps and patches: fewer networks share the cost of calling an operation, more leave the cache."""
_Pair = tuple[Tensor, Tensor]

_POOL = (SpatialOp("global_avg_pool"),)


class Dropout(NamedTuple):
    """Channels of an image are set to zero where what is drawn for them is below a share, the others grow.

    Args:
        draws: from [0, 1), ``[k, sum of images * channels]``, ``[images, channels]`` of every convolution in turn.
        share: per network.
    """

    draws: Tensor
    share: Tensor

    def masks(self, sizes: Sequence[int], images: int) -> list[Tensor]:
        """One factor of mean 1 per convolution, ``[k, channels, images]``, for numbers of channels.

        Example:
            >>> Dropout(torch.tensor([[0.1, 0.6]]), torch.tensor([0.5])).masks([2], 1)
            [tensor([[[0.],
                     [2.]]])]
        """
        share = self.share[:, None]
        parts = ((self.draws >= share) / (1 - share)).split([images * n for n in sizes], 1)
        return [m.unflatten(1, (images, n)).transpose(1, 2).contiguous() for m, n in zip(parts, sizes, strict=True)]


def is_plain_cnn(spec: NetSpec) -> bool:
    """Whether a spec is 2-d convolutions with relu or tanh behind each, global average pool and a dense layer.

    Every layer has a bias, the size of the images is known, and nothing else happens: no padding, norms, shortcuts,
    other pooling.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> [is_plain_cnn(small_cnn_spec([1, 4], 3, act, input_shape=(1, 8, 8))) for act in ("tanh", "gelu")]
        [True, False]
    """
    *convolutions, dense = spec.blocks
    ids = [g.id for g in spec.groups]
    return (
        spec.input_shape is not None
        and bool(convolutions)
        and [(b.src, b.dst) for b in spec.blocks] == list(zip(ids, ids[1:], strict=False))
        and [(p.group, p.field, p.shape) for p in spec.node_params]
        == [(g.id, "bias", (g.size,)) for g in spec.groups[1:]]
        and all(b.view == b.shape and not (b.post or b.part) for b in spec.blocks)
        and all(b.conv is not None and b.conv.padding == (0, 0) for b in convolutions)
        and all(b.dims == (0, 1, 2, 3) and not b.pre for b in convolutions)
        and (dense.kind, dense.dims, dense.pre) == ("linear", (0, 1), _POOL)
        and all(len(g.activations) == 1 and g.activations[0].name in _ACTIVATIONS for g in spec.groups[1:-1])
        and spec.groups[-1].activations[0].name == "identity"
        and all(g.norm_eps is None for g in spec.groups)
        and len({b.param for b in spec.blocks}) == len(spec.blocks)
    )


def cnns_at_once(spec: NetSpec, images: int) -> int:
    """How many networks are best trained at once, two at least; it changes none of them.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> cnns_at_once(small_cnn_spec([1, 16, 16, 16], 10, "relu", input_shape=(1, 8, 8)), 32)
        10
    """
    maps = map_shapes(spec)
    sizes = [math.prod(shape) for shape in maps]
    patches = [b.num_taps * b.sizes[1] * math.prod(shape[1:]) for b, shape in zip(spec.blocks, maps[1:], strict=False)]
    return max(2, _BYTES // (4 * images * (2 * sum(sizes) + sum(patches)) + 16 * spec.num_params))


class PlainCNNs:
    """Logits of many CNNs, and the gradients of their parameters.

    z_l = W_l patches(h_{l-1}) + b_l, h_l = m_l sigma(z_l) with dropout masks m_l, logits = W mean(h) + b over
    positions. Back: d patches = W_l^T d_l is added up at the places that the patches were taken from. Maps are
    ``[networks, channels, height, width, images]``: patches are then copied in long runs, and a product with them
    gives the next map. A row of ones behind the patches brings the bias into the product.

    Args:
        spec: of :func:`is_plain_cnn`, which knows its input shape.
        theta: parameters in the order of the spec, ``[k, P]``, perhaps with further columns; read at every call.
        images: how many images every network sees.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> spec = small_cnn_spec([1, 4, 4], 3, "relu", input_shape=(1, 8, 8))
        >>> cnns = PlainCNNs(spec, torch.randn(5, spec.num_params), 7)
        >>> _ = cnns.inputs.normal_()
        >>> cnns.logits().shape, cnns.gradient(torch.ones(5, 3, 7)).shape
        (torch.Size([5, 3, 7]), torch.Size([5, 203]))
    """

    def __init__(self, spec: NetSpec, theta: Tensor, images: int) -> None:
        assert is_plain_cnn(spec)
        k = len(theta)
        shapes = [(k, *shape, images) for shape in map_shapes(spec)]
        self._maps = [theta.new_empty(shape) for shape in shapes]  # h, on the way back d
        self.inputs = self._maps[0]
        """To be filled, ``[k, channels, height, width, images]``."""
        tanh = [g.activations[0].name == "tanh" for g in spec.groups[1:-1]]
        # tanh' needs what was there before the mask; of relu the masked value tells enough
        self._unmasked = [torch.empty_like(h) if t else h for h, t in zip(self._maps[1:], tanh, strict=True)]
        self._tanh = tanh
        named = dict(zip(spec.params, _views(spec, theta), strict=True))
        grads = {name: theta.new_empty(k, *shape) for name, shape in spec.params.items()}
        self._layers = []
        for i, (block, bias) in enumerate(zip(spec.blocks[:-1], spec.node_params, strict=False)):
            h, out, total = self._maps[i], self._maps[i + 1], torch.empty_like(self._maps[i]) if i else None
            pair = grads[block.param], grads[bias.param]
            self._layers.append(_Patches(block, h, out, total, named[block.param], named[bias.param][..., None], pair))
        dense, bias = spec.blocks[-1].param, spec.node_params[-1].param
        self._weight, self._bias, self._dense_grads = named[dense], named[bias][..., None], (grads[dense], grads[bias])
        self._pooled = theta.new_empty(k, shapes[-1][1], images)
        self._logits = theta.new_empty(k, spec.groups[-1].size, images)
        self._parts = [grad.flatten(1) for grad in grads.values()]
        self._parts.append(theta.new_zeros(k, theta.shape[1] - spec.num_params))
        self._grad, self._masks = torch.empty_like(theta), tuple[Tensor, ...]()

    @torch.no_grad()
    def logits(self, masks: Sequence[Tensor] = ()) -> Tensor:
        """Logits of the networks for :attr:`inputs`, ``[k, classes, images]``; valid until the next call.

        Args:
            masks: one factor ``[k, channels, images]`` for every convolution's activations, or none.
        """
        self._masks = tuple(mask[:, :, None, None] for mask in masks)
        for i, layer in enumerate(self._layers):
            layer.convolve()
            z, h = self._maps[i + 1], self._unmasked[i]
            torch.tanh(z, out=h) if self._tanh[i] else torch.clamp(z, min=0, out=h)
            if masks:
                torch.mul(h, self._masks[i], out=self._maps[i + 1])
            elif h is not self._maps[i + 1]:
                self._maps[i + 1].copy_(h)
        torch.mean(self._maps[-1].flatten(2, 3), 2, out=self._pooled)
        return torch.bmm(self._weight, self._pooled, out=self._logits).add_(self._bias)

    @torch.no_grad()
    def gradient(self, cotangent: Tensor) -> Tensor:
        """d <cotangent, logits> / d theta, of the shape of theta; after :meth:`logits`, and once.

        Args:
            cotangent: ``[k, classes, images]``.
        """
        torch.bmm(cotangent, self._pooled.transpose(1, 2), out=self._dense_grads[0])
        torch.sum(cotangent, 2, out=self._dense_grads[1])
        d = torch.bmm(self._weight.transpose(1, 2), cotangent, out=self._pooled)
        d = d.div_(math.prod(self._maps[-1].shape[2:-1]))[:, :, None, None].expand_as(self._maps[-1])
        for i in reversed(range(len(self._layers))):
            h, out = self._unmasked[i], self._maps[i + 1]
            if self._masks and self._tanh[i]:
                d = torch.mul(d, self._masks[i], out=out)
            if self._tanh[i]:
                d = torch.ops.aten.tanh_backward.grad_input(d, h, grad_input=out)
            else:
                d = torch.ops.aten.threshold_backward.grad_input(d, h, 0, grad_input=out)
                d = d.mul_(self._masks[i]) if self._masks else d
            d = self._layers[i].back()
        return torch.cat(self._parts, 1, out=self._grad)


class _Patches:
    """The patches that a convolution sees in a map, as columns of a matrix per network.

    Args:
        block: the convolution.
        h: the map, ``[k, channels, height, width, images]``.
        out: where its result goes.
        total: where the gradient of the map goes; None: it is not needed.
        weight: of the networks, ``[k, filters, channels, taps]``.
        bias: ``[k, filters, 1]``.
        grads: where their gradients go.
    """

    def __init__(
        self, block: Block, h: Tensor, out: Tensor, total: Tensor | None, weight: Tensor, bias: Tensor, grads: _Pair
    ) -> None:
        assert block.conv is not None
        (k, channels, _, _, images), (_, filters, *size, _) = h.shape, out.shape
        strides, apart = block.conv.stride, block.conv.dilation
        batch, channel, row, column, _ = h.stride()
        rows, positions = channels * block.num_taps, math.prod(size) * images
        steps = (apart[0] * row, apart[1] * column, strides[0] * row, strides[1] * column)
        self._from = h.as_strided((k, channels, *block.taps, *size, images), (batch, channel, *steps, 1))
        memory, kernel, grad = (h.new_empty(k * (rows + 1) * n) for n in (positions, filters, filters))
        self._columns, self._kernel = memory.view(k, rows + 1, positions), kernel.view(k, filters, rows + 1)
        self._to, self._ones = self._columns[:, :rows].view(self._from.shape), self._columns[:, rows]
        self._fill = ((self._kernel[..., :-1], weight.flatten(2)), (self._kernel[..., -1:], bias))
        self._grad = grad.view(k, rows + 1, filters)
        across = self._grad.transpose(1, 2)
        self._grads = ((grads[0].flatten(2), across[..., :-1]), (grads[1], across[..., -1]))
        self._out, self._d = out.flatten(2), out.flatten(2).transpose(1, 2)
        self._total = total
        if total is not None:
            self._across = weight.flatten(2).transpose(1, 2)
            self._back = memory[: k * rows * positions].view(k, rows, positions)  # in the place of the patches
            parts = self._back.view(self._from.shape)
            # what the first taps see does not overlap: it is written, the edge behind it cleared, the rest added
            self._first, self._then = [], []
            for y in range(block.taps[0]):
                for x in range(block.taps[1]):
                    first = y * apart[0] < strides[0] and x * apart[1] < strides[1]
                    place = _taps(total, (y, x), strides, apart, size)
                    (self._first if first else self._then).append((place, parts[:, :, y, x]))
            covered = [
                s * n if s <= t and d == 1 else 0 for s, n, t, d in zip(strides, size, block.taps, apart, strict=True)
            ]
            self._edges = total[:, :, covered[0] :], total[:, :, :, covered[1] :]

    def convolve(self) -> None:
        """Write the convolution of the map into ``out``."""
        for kernel, values in self._fill:
            kernel.copy_(values)
        self._to.copy_(self._from)
        self._ones.fill_(1.0)
        torch.bmm(self._kernel, self._columns, out=self._out)

    def back(self) -> Tensor | None:
        """Write the gradients of kernel and bias, for a gradient in ``out``; give that of the map. Patches are lost."""
        torch.bmm(self._columns, self._d, out=self._grad)
        for grad, values in self._grads:
            grad.copy_(values)
        if self._total is None:
            return None
        torch.bmm(self._across, self._out, out=self._back)
        for edge in self._edges:
            edge.zero_()
        for place, piece in self._first:
            place.copy_(piece)
        for place, piece in self._then:
            place.add_(piece)
        return self._total


def _taps(h: Tensor, tap: tuple[int, int], strides: Sequence[int], apart: Sequence[int], size: Sequence[int]) -> Tensor:
    """What one tap of a kernel sees of a map at all positions."""
    first = [d * t for d, t in zip(apart, tap, strict=True)]
    y, x = (slice(f, f + s * (n - 1) + 1, s) for f, s, n in zip(first, strides, size, strict=True))
    return h[:, :, y, x]


def map_shapes(spec: NetSpec) -> list[tuple[int, ...]]:
    """Of the inputs and behind every convolution, ``(channels, height, width)``."""
    shapes = [input_shape(spec)]
    for block in spec.blocks[:-1]:
        assert block.conv is not None
        facts = zip(shapes[-1][1:], block.taps, block.conv.stride, block.conv.dilation, strict=True)
        shapes.append((block.sizes[0], *((size - d * (tap - 1) - 1) // s + 1 for size, tap, s, d in facts)))
    return shapes


def _views(spec: NetSpec, theta: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in spec.params.values()]
    parts = theta[:, : spec.num_params].split(sizes, 1)
    return [part.view(len(theta), *shape) for part, shape in zip(parts, spec.params.values(), strict=True)]
