"""Official models out of their clones, at the sizes of their configurations, with random weights.

Each function runs in a process of its own whose import path leads to one clone, see :mod:`experiments.peers.worker`.
Sizes are those of the official configurations, read from the clone where it is easily done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn


@dataclass(frozen=True)
class Networks:
    """Weights ``[B, n_out, n_in, *taps]`` and biases ``[B, n_out]`` of every layer."""

    clone: Path
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def layout(self) -> list[int]:
        """Neurons per group."""
        return [self.weights[0].shape[2], *(b.shape[1] for b in self.biases)]


@dataclass(frozen=True)
class Official:
    """A model, and its forward pass on the networks; what data loaders prepare is prepared already."""

    module: nn.Module
    forward: Callable[[], Tensor]


# ---- NFN and the codes that grew out of it --------------------------------------------------------


def _nfn(networks: Networks, make: Callable[[Any, Any], nn.Module], *, normalize: bool = False) -> Official:
    """A model of ``experiments/models.py``; ``make(models, network_spec)``."""
    models, common = import_module("experiments.models"), import_module("nfn.common")
    weights, biases = (tuple(t[:, None] for t in ts) for ts in (networks.weights, networks.biases))
    features = common.WeightSpaceFeatures(weights, biases)
    module: Any = make(models, common.network_spec_from_wsfeat(features))
    if normalize:
        moments = [[(t.mean(0), t.std(0)) for t in ts] for ts in (weights, biases)]
        module.set_stats(moments)
    return Official(module, lambda: module(features))


def nfn_statnet(networks: Networks) -> Official:
    return _nfn(networks, lambda m, spec: m.StatNet(spec, h_size=1000, dropout=0.0, sigmoid=True))


def _zoo(models: Any, spec: Any, mode: str, *, normalize: bool = False) -> nn.Module:
    head = partial(models.MlpHead, num_out=1, h_size=1000, dropout=0.0, sigmoid=True)
    return models.InvariantNFN(spec, [16, 16, 5], partial(head, pool_mode="HNP"), mode=mode, normalize=normalize)


def nfn_hnp_cnn(networks: Networks) -> Official:
    return _nfn(networks, lambda m, spec: _zoo(m, spec, "HNP"))


def nfn_np_cnn(networks: Networks) -> Official:
    return _nfn(networks, lambda m, spec: _zoo(m, spec, "NP-PosEmb", normalize=True), normalize=True)


def _sirens(models: Any, spec: Any, mode: str, places: Any) -> nn.Module:
    layers = import_module("nfn.layers")
    head = partial(models.MlpHead, num_out=10, h_size=1000, dropout=0.1, pool_mode="HNP")
    waves = partial(layers.GaussianFourierFeatureTransform, mapping_size=128, scale=3)
    settings = {"feature_dropout": 0.1, "inp_enc_cls": waves, "pos_enc_cls": places}
    return models.InvariantNFN(spec, [512, 512, 512], head, mode=mode, **settings)


def nfn_hnp_siren(networks: Networks) -> Official:
    return _nfn(networks, lambda m, spec: _sirens(m, spec, "HNP", None))


def nfn_np_siren(networks: Networks) -> Official:
    def make(models: Any, spec: Any) -> nn.Module:
        places = import_module("nfn.layers").IOSinusoidalEncoding
        return _sirens(models, spec, "NP", partial(places, max_freq=3, num_bands=3, enc_layers=False))

    return _nfn(networks, make)


def monomial_cnn(networks: Networks) -> Official:
    def make(models: Any, spec: Any) -> nn.Module:
        head = partial(models.MlpHead, num_out=1, h_size=200, sigmoid=True, pool_mode="HNPS_param_mul_L2")
        return models.InvariantNFN(spec, [16, 16, 5], head, mode="HNPS", init_type="xavier_normal")

    return _nfn(networks, make)


def monomial_sign_cnn(networks: Networks) -> Official:
    def make(models: Any, spec: Any) -> nn.Module:
        head = partial(models.MlpHead, num_out=1, h_size=200, sigmoid=True, pool_mode="HNPS_param_mul_L2")
        settings = {"mode": "HNPS", "model_type": "S_tanh_abs_gen", "init_type": "xavier_normal"}
        return models.InvariantNFN_HNPS(spec, [16, 16, 5], head, **settings)

    return _nfn(networks, make)


def monomial_siren(networks: Networks) -> Official:
    def make(models: Any, spec: Any) -> nn.Module:
        layers = import_module("nfn.layers")
        head = partial(models.MlpHead, num_out=10, h_size=1000, dropout=0.1, pool_mode="HNP")
        waves = partial(layers.GaussianFourierFeatureTransform, mapping_size=128, scale=3)
        settings = {"hnps_dim": 64, "concat": True, "model_type": "S_sin_abs", "inp_enc_cls": waves}
        settings |= {"feature_dropout": 0.1, "init_type": "xavier_normal"}
        return models.InvariantNFN_HNPS(spec, [256, 256, 256], head, mode="HNP", **settings)

    return _nfn(networks, make)


def magep_cnn(networks: Networks) -> Official:
    def make(models: Any, spec: Any) -> nn.Module:
        head = partial(models.MlpHead, num_out=1, h_size=500, sigmoid=True, pool_mode="Mixer")
        settings = {"mode": "HNPSMixerInv", "hnps_dim": [20, 20], "init_type": "xavier_normal"}
        return models.HNPSMixer_Inv(spec, [20, 20], head, **settings)

    return _nfn(networks, make)


# ---- others ---------------------------------------------------------------------------------------


def _turned(networks: Networks) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights ``[B, n_in, n_out, taps]`` and biases ``[B, n_out, 1]``."""
    weights = tuple(
        w.transpose(1, 2).flatten(3) if w.ndim > 3 else w.transpose(1, 2)[..., None] for w in networks.weights
    )
    return weights, tuple(b[..., None] for b in networks.biases)


def _dws(networks: Networks, kind: str) -> Official:
    inputs = _turned(networks)
    shapes = (tuple(tuple(w.shape[1:3]) for w in inputs[0]), tuple(tuple(b.shape[1:2]) for b in inputs[1]))
    module = import_module("nn.models").DWSModelForClassification(
        *shapes, input_features=1, hidden_dim=32, n_hidden=4, n_classes=10, reduction="max", n_fc_layers=1,
        set_layer=kind, n_out_fc=1, dropout_rate=0.0, bn=True,
    )  # fmt: skip
    return Official(module, lambda: module(inputs))


def dws_attention(networks: Networks) -> Official:
    return _dws(networks, "sab")


def dws_deepsets(networks: Networks) -> Official:
    return _dws(networks, "ds")


def _scalegmn(networks: Networks, config: str) -> Official:
    """A model of one of the configurations, on a batch as the data loader puts it together."""
    from torch_geometric.data import Batch

    data = import_module("src.data.data_utils")
    settings: Any = OmegaConf.to_container(OmegaConf.load(networks.clone / "configs" / config))
    arguments, layout = settings["scalegmn_args"], networks.layout
    arguments["layer_layout"] = layout
    module = import_module("src.scalegmn.models").ScaleGMN(arguments)
    edges = data.nn_to_edge_index(layout, "cpu")
    node_types, edge_types = data.get_node_types(layout), data.get_edge_types(layout)
    weights, biases = _turned(networks)
    taps = max(w.shape[-1] for w in weights)
    hidden = torch.ones(sum(layout), 1, dtype=torch.bool)
    hidden[: layout[0]] = hidden[-layout[-1] :] = False
    first = torch.zeros_like(hidden)
    first[: layout[0]] = True
    graphs = []
    for n in range(len(biases[0])):
        nodes = torch.cat([torch.full((layout[0], 1), float(taps == 1)), *(b[n] for b in biases)])
        rows = [nn.functional.pad(w[n], (0, taps - w.shape[-1])).flatten(0, 1) for w in weights]
        extra = {"bw_edge_index": edges.flip(0)} if arguments["direction"] == "bidirectional" else {}
        graphs.append(
            _data(
                x=nodes, edge_index=edges, edge_attr=torch.cat(rows), node2type=node_types, edge2type=edge_types,
                mask_hidden=hidden, mask_first_layer=first, **extra,
            )
        )  # fmt: skip
    batch: Any = Batch.from_data_list(graphs)
    return Official(module, lambda: module(batch.clone()))  # the model writes into it


def _data(**fields: Any) -> Any:
    from torch_geometric.data import Data

    return Data(**fields)


def scalegmn_relu(networks: Networks) -> Official:
    return _scalegmn(networks, "cifar10/scalegmn_relu.yml")


def scalegmn_relu_bidir(networks: Networks) -> Official:
    return _scalegmn(networks, "cifar10/scalegmn_relu_bidir.yml")


def scalegmn_mnist(networks: Networks) -> Official:
    return _scalegmn(networks, "mnist_cls/scalegmn.yml")


def scalegmn_mnist_bidir(networks: Networks) -> Official:
    return _scalegmn(networks, "mnist_cls/scalegmn_bidir.yml")


def _neural_graph(networks: Networks, folder: str, data: str, model: str) -> tuple[nn.Module, Any]:
    """The module of a configuration, and its data's settings."""
    import hydra

    OmegaConf.register_new_resolver("prod", lambda a, b: a * b, replace=True)
    configs = networks.clone / "experiments" / folder / "configs"
    whole = OmegaConf.create(
        {"data": OmegaConf.load(configs / "data" / data), "model": OmegaConf.load(configs / "model" / model)}
    )
    extra = {} if "layer_layout" in whole.model else {"layer_layout": networks.layout}
    return hydra.utils.instantiate(whole.model, **extra), whole.data


def _ng_siren(networks: Networks, model: str) -> Official:
    module, _ = _neural_graph(networks, "inr_classification", "mnist.yaml", model)
    inputs = _turned(networks)
    return Official(module, lambda: module(inputs))


def ng_gnn_siren(networks: Networks) -> Official:
    return _ng_siren(networks, "pna.yaml")


def ng_t_siren(networks: Networks) -> Official:
    return _ng_siren(networks, "rtransformer.yaml")


def _ng_cnn(networks: Networks, model: str) -> Official:
    from torch_geometric.data import Batch

    module, data = _neural_graph(networks, "cnn_generalization", "zoo_cifar_nfn.yaml", model)
    make = import_module("experiments.data_generalization").cnn_to_tg_data
    weights, biases = _turned(networks)
    taps = max(w.shape[-1] for w in weights)
    weights = tuple(
        w if w.shape[-1] == taps else nn.functional.pad(w, (taps // 2, taps - 1 - taps // 2)) for w in weights
    )
    mask = [1] * (len(weights) - 1) + [0]
    graphs = []
    for n in range(len(biases[0])):
        parts = tuple(w[n] for w in weights), tuple(b[n] for b in biases)
        graphs.append(make(*parts, mask, fmap_size=1, y=0.0, layer_layout=networks.layout))
    batch = Batch.from_data_list(graphs)
    return Official(module, lambda: module(batch))


def ng_gnn_cnn(networks: Networks) -> Official:
    return _ng_cnn(networks, "pna.yaml")


def ng_t_cnn(networks: Networks) -> Official:
    return _ng_cnn(networks, "rtransformer.yaml")


def _probegen(kind: str, ends: tuple[int, int, int], nets: list[Any]) -> Official:
    make = import_module("ProbeGen").ProbeGen
    entries, outputs, out = ends
    module = make(
        n_tokens=128, d_hidden=256, models_c_in=entries, models_c_out=outputs, d_out=out, gen_type=kind,
        gen_latent_z=32, gen_width=16, n_layers=6,
    )  # fmt: skip
    return Official(module, lambda: module(nets))


def probegen_cnn(networks: Networks) -> Official:
    kind = import_module("data").Generic_CNN_Network
    layout, nets = networks.layout, []
    for n in range(len(networks.biases[0])):
        sizes = {"kernel_sizes": [(3, 3)] * 3, "strides": [2] * 3, "paddings": [1] * 3}
        net = kind(3, layout[:4], activations=["relu"] * 3, out_size=layout[-1], **sizes)
        net.load_weights([w[n] for w in networks.weights], [b[n] for b in networks.biases])
        nets.append(net)
    return _probegen("deep_linear_6", (layout[0], layout[-1], 1), nets)


def probegen_siren(networks: Networks) -> Official:
    kind = import_module("data").INR_Network
    nets = []
    for n in range(len(networks.biases[0])):
        net = kind()
        parts = zip(net.seq, networks.weights, networks.biases, strict=True)
        for layer, w, b in parts:
            layer.load_state_dict({"weight": w[n], "bias": b[n]})
        nets.append(net)
    return _probegen("linear_2_no_acts", (2, 1, 10), nets)
