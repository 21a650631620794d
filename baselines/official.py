"""Weights trained with the papers' own code, by official class path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from baselines.dws import from_official as dws
from baselines.errors import BaselineError
from baselines.foreign import Meta
from baselines.gmn_lim import from_official as gmn_lim
from baselines.lol import from_official as lol
from baselines.magep import from_official as magep
from baselines.monomial import from_official as monomial
from baselines.neural_graphs import from_official as neural_graphs
from baselines.nfn import from_official as nfn
from baselines.probegen import from_official as probegen
from baselines.scalegmn import from_official as scalegmn
from baselines.statnet import from_official as statnet
from graphnfn.spec import NetSpec

Loader = Callable[[Meta, Mapping[str, Tensor]], nn.Module]

_LOADERS: dict[str, Loader] = {
    "AvivNavon/DWSNets/nn/models.py:DWSModel": dws,
    "AvivNavon/DWSNets/nn/models.py:DWSModelForClassification": dws,
    "AllanYangZhou/nfn/nfn/layers/layers.py:NPLinear": nfn,
    "AllanYangZhou/nfn/nfn/layers/layers.py:HNPLinear": nfn,
    "AllanYangZhou/nfn/nfn/layers/layers.py:NPPool": nfn,
    "AllanYangZhou/nfn/nfn/layers/layers.py:HNPPool": nfn,
    "AllanYangZhou/nfn/experiments/models.py:InvariantNFN": nfn,
    "AllanYangZhou/nfn/experiments/models.py:StatNet": statnet,
    "AllanYangZhou/nfn/experiments/stylize_models.py:TransferNet": nfn,
    "Fsoft-AIC/MAGEP-NFN/nfn/layers/equiv_layers.py:HNPSLinear": magep,
    "Fsoft-AIC/MAGEP-NFN/nfn/layers/equiv_layers.py:HNPSMixerLinear": magep,
    "Fsoft-AIC/MAGEP-NFN/nfn/layers/inv_layers.py:HNPSMixerInv": magep,
    "Fsoft-AIC/MAGEP-NFN/experiments/models.py:HNPSMixer_Inv": magep,
    "MathematicalAI-NUS/Monomial-NFN/nfn/layers/layers.py:HNPSLinear": monomial,
    "MathematicalAI-NUS/Monomial-NFN/nfn/layers/layers.py:HNPS_SirenLinear": monomial,
    "MathematicalAI-NUS/Monomial-NFN/nfn/layers/layers.py:HNPSPool": monomial,
    "MathematicalAI-NUS/Monomial-NFN/experiments/models.py:InvariantNFN": monomial,
    "MathematicalAI-NUS/Monomial-NFN/experiments/models.py:InvariantNFN_HNPS": monomial,
    "MathematicalAI-NUS/Monomial-NFN/experiments/stylize_models.py:TransferNet": monomial,
    "cptq/graph_metanetworks/gmn/feature_extractor_gmn.py:GraphPredGen": gmn_lim,
    "jkalogero/scalegmn/src/scalegmn/models.py:ScaleGMN": scalegmn,
    "jkalogero/scalegmn/src/scalegmn/models.py:ScaleGMN_equiv": scalegmn,
    "jonkahana/ProbeGen/ProbeGen.py:ProbeGen": probegen,
    "mkofinas/neural-graphs/nn/gnn.py:GNNForClassification": neural_graphs,
    "mkofinas/neural-graphs/nn/dynamic_gnn.py:GNNForGeneralization": neural_graphs,
    "mkofinas/neural-graphs/nn/dense_gnn.py:GNNParams": neural_graphs,
    "mkofinas/neural-graphs/nn/relational_transformer.py:RelationalTransformer": neural_graphs,
    "mkofinas/neural-graphs/nn/dynamic_relational_transformer.py:DynamicRelationalTransformer": neural_graphs,
    "mkofinas/neural-graphs/nn/dense_relational_transformer.py:RelationalTransformerParams": neural_graphs,
    "moeputt/LoL/diffusion/models/models.py:GLInvariantMLP": lol,
}


def official_classes() -> tuple[str, ...]:
    """Official classes whose weights can be read, as ``owner/repository/file.py:Class``."""
    return tuple(_LOADERS)


def load_official(
    class_path: str,
    constructor: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    specs: Sequence[NetSpec],
) -> nn.Module:
    """Our module with the weights of an official one.

    ``load_official(...)(G) == official(G)`` for every network G of the specs.

    Args:
        class_path: one of :func:`official_classes`.
        constructor: the arguments that the official module was made with.
        state: its state dict.
        specs: what it reads.

    Raises:
        BaselineError: an unknown class, or weights that do not fit it.

    Example:
        >>> load_official("someone/nets/models.py:Net", {}, {}, specs=[])
        Traceback (most recent call last):
        ...
        baselines.errors.BaselineError: no loader for 'someone/nets/models.py:Net'; known: ...
    """
    if class_path not in _LOADERS:
        raise BaselineError(f"no loader for {class_path!r}; known: {', '.join(official_classes())}")
    return _LOADERS[class_path]({"class_path": class_path, "constructor": constructor, "specs": tuple(specs)}, state)
