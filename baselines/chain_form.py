"""The sizes of networks whose layers follow one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from baselines.errors import BaselineError
from graphnfn.spec import NetSpec
from graphnfn.traced import TracedSpec


@dataclass(frozen=True)
class ChainForm:
    """The sizes of a chain of layers.

    Args:
        widths: neurons per group, n_0 (inputs) to n_L (outputs).
        taps: per layer the extents of its kernel, ``()`` for a dense layer; a dense layer behind a flatten has one
            axis of positions.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> chain_form(small_cnn_spec([1, 16, 16], 10, "relu"))
        ChainForm(widths=(1, 16, 16, 10), taps=((3, 3), (3, 3), ()))
    """

    widths: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self.taps)

    @cached_property
    def tap_counts(self) -> tuple[int, ...]:
        """Per layer, the entries of one kernel: 1 for a dense layer."""
        return tuple(math.prod(t) for t in self.taps)

    @property
    def ends(self) -> tuple[int, int, tuple[tuple[int, ...], ...]]:
        """Inputs, outputs and kernels: all that layers which average over hidden neurons depend on."""
        return self.widths[0], self.widths[-1], self.taps

    def weight_shape(self, layer: int) -> tuple[int, ...]:
        """``(n_out, n_in, *taps)``."""
        return (self.widths[layer + 1], self.widths[layer], *self.taps[layer])


@lru_cache(maxsize=1024)
def chain_form(spec: NetSpec) -> ChainForm:
    """The form of a network whose layers follow one another.

    Raises:
        BaselineError: the network has branches, ties, PReLU slopes, or was traced.
    """
    if isinstance(spec, TracedSpec):
        raise BaselineError("expected a chain of layers; got a traced network: convert it without example_input")
    ends = [(spec.position[b.src], spec.position[b.dst]) for b in spec.blocks]
    if ends != [(i, i + 1) for i in range(len(spec.groups) - 1)]:
        raise BaselineError(
            f"expected layers that follow one another; got {len(spec.blocks)} blocks between {len(spec.groups)} groups "
            f"of neurons: {ends}. Use a graph metanetwork (gmn, or graphnfn.GraphMetaNet) for such networks"
        )
    if any(p.field == "slope" for p in spec.node_params):
        raise BaselineError(
            "expected weights, biases and norms only; got PReLU slopes: use a graph metanetwork (gmn), or LeakyReLU"
        )
    taps = tuple(b.taps if b.kind == "conv" or not b.taps else (b.num_taps,) for b in spec.blocks)
    return ChainForm(tuple(g.size for g in spec.groups), taps)


def common_form(specs: Sequence[NetSpec]) -> ChainForm:
    """The one form of all specs; they may differ in their activations.

    Raises:
        BaselineError: there are several forms, or a network is no chain.
    """
    forms = list(dict.fromkeys(chain_form(s) for s in specs))
    if len(forms) != 1:
        raise BaselineError(
            f"expected networks of one form; got {len(forms)}, among them {forms[:2]}: train one model per form, or "
            "use a metanetwork that reads mixed architectures (gmn, statnn)"
        )
    return forms[0]


def common_ends(specs: Sequence[NetSpec]) -> ChainForm:
    """The form of the first spec, where all agree in inputs, outputs, depth and kernels; hidden widths may differ.

    Raises:
        BaselineError: they do not agree, or a network is no chain.
    """
    forms = list(dict.fromkeys(chain_form(s) for s in specs))
    for form in forms:
        if form.ends != forms[0].ends:
            raise BaselineError(
                f"expected networks that differ in hidden widths only; got {forms[0]} and {form}: train one model for "
                "each, or use a metanetwork that reads mixed architectures (gmn, statnn)"
            )
    return forms[0]
