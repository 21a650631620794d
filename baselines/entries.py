"""Standardised entries of chains of several widths and depths, for models that share their maps over layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.neural_graphs.features import centred, common_grid
from baselines.standardize import Standardize
from baselines.weight_space import ChainForm, Part, chain_form
from graphnfn.spec import NetSpec


class Entries(nn.Module):
    """Weights ``[B, n_out, n_in, taps]`` and biases ``[B, n_out, 1]`` of every layer, with one number of taps for all.

    ``(v - mean_l) / std_l`` with running statistics of each layer; smaller kernels and dense weights stand in the
    middle of the largest kernel. Hidden widths, and the depth up to that of the deepest spec, may differ.

    Args:
        specs: architectures that shall be read; equal inputs and outputs.
        normalize: standardise; else the numbers are left as they are.

    Raises:
        BaselineError: flattened maps, kernels of several ranks, other inputs or outputs, or no chain.

    Example:
        >>> from baselines.weight_space import weight_spaces
        >>> from graphnfn.chain import small_cnn_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = small_cnn_spec([1, 4, 5], 2, "relu")
        >>> weights, biases = Entries([spec]).double()(weight_spaces(random_graph(spec, networks=3))[0])
        >>> [tuple(w.shape) for w in weights]
        [(3, 4, 1, 9), (3, 5, 4, 9), (3, 2, 5, 9)]
    """

    def __init__(self, specs: Sequence[NetSpec], *, normalize: bool = True) -> None:
        super().__init__()
        forms = list(dict.fromkeys(map(chain_form, specs)))
        self.grid = common_grid(forms)
        self.ends = forms[0].widths[0], forms[0].widths[-1]
        self.depth = max(form.depth for form in forms)
        for form in forms:
            self._check(form)
        kept = self.depth if normalize else 0
        self.weight_scales = nn.ModuleList(Standardize(1) for _ in range(kept))
        self.bias_scales = nn.ModuleList(Standardize(1) for _ in range(kept))

    @property
    def taps(self) -> int:
        """Entries of one kernel."""
        return math.prod(self.grid)

    def forward(self, part: Part) -> tuple[list[Tensor], list[Tensor]]:
        self._check(part.form)
        weights, biases = list(part.features.weights), [b[:, 0, :, None] for b in part.features.biases]
        if self.weight_scales:
            weights = [f(w[..., None])[..., 0] for f, w in zip(self.weight_scales, weights, strict=False)]
            biases = [f(b) for f, b in zip(self.bias_scales, biases, strict=False)]
        return [centred(w, self.grid) for w in weights], biases

    def _check(self, form: ChainForm) -> None:
        fits = all(len(t) in (0, len(self.grid)) for t in form.taps) and all(
            small <= big for t in form.taps for small, big in zip(t, self.grid, strict=False)
        )
        if (form.widths[0], form.widths[-1]) != self.ends or form.depth > self.depth or not fits:
            raise BaselineError(
                f"expected networks with inputs and outputs {self.ends}, at most {self.depth} layers, kernels within "
                f"{self.grid}; got {form}: build the model with the specs of all networks that it shall read, "
                "one model for each pair of inputs and outputs"
            )
