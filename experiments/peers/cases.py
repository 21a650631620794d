"""Which official model is timed beside which of ours: the same settings, on the same networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        baseline: our name.
        preset: our settings, empty for the defaults.
        shape: key of :data:`experiments.bench.subjects.SHAPES`.
        clone: folder of the official code.
        build: function of :mod:`experiments.peers.official` that makes the official model.
        extra: which official parameters ours leaves out; empty where both counts must be equal.
    """

    baseline: str
    preset: str
    shape: str
    clone: str
    build: str
    extra: str = ""

    @property
    def name(self) -> str:
        """Unique."""
        return "/".join((self.baseline, self.preset or "default", self.shape))


CASES = tuple(
    Case(*words)
    for words in (
        ("statnet", "small_cnn_zoo", "small_cnn", "nfn", "nfn_statnet"),
        ("nfn_hnp", "small_cnn_zoo", "small_cnn", "nfn", "nfn_hnp_cnn"),
        ("nfn_np_as_published", "small_cnn_zoo", "small_cnn", "nfn", "nfn_np_cnn"),
        ("nfn_hnp", "siren_mnist", "siren", "nfn", "nfn_hnp_siren"),
        ("nfn_np", "siren_mnist", "siren", "nfn", "nfn_np_siren"),
        ("monomial", "small_cnn_zoo", "small_cnn", "Monomial-NFN", "monomial_cnn", "biases that have no effect"),
        ("monomial_sign", "small_cnn_zoo", "small_cnn", "Monomial-NFN", "monomial_sign_cnn", "biases without effect"),
        ("monomial_siren", "siren_mnist", "siren", "Monomial-NFN", "monomial_siren"),
        ("magep", "small_cnn_zoo", "small_cnn", "MAGEP-NFN", "magep_cnn", "frozen and unused numbers"),
        ("dws", "siren_mnist", "siren", "DWSNets", "dws_attention"),
        ("dws_deepsets", "siren_mnist", "siren", "DWSNets", "dws_deepsets"),
        ("scalegmn", "cifar10_relu", "small_cnn", "scalegmn", "scalegmn_relu"),
        ("scalegmn_as_published", "cifar10_relu_bidir", "small_cnn", "scalegmn", "scalegmn_relu_bidir"),
        ("scalegmn", "mnist_inr", "siren", "scalegmn", "scalegmn_mnist"),
        ("scalegmn_as_published", "mnist_inr_bidir", "siren", "scalegmn", "scalegmn_mnist_bidir"),
        ("ng_gnn", "inr", "siren", "neural-graphs", "ng_gnn_siren"),
        ("ng_t", "inr", "siren", "neural-graphs", "ng_t_siren"),
        ("ng_gnn", "cnn_zoo", "small_cnn", "neural-graphs", "ng_gnn_cnn", "embeddings of activations, unused"),
        ("ng_t", "cnn_zoo", "small_cnn", "neural-graphs", "ng_t_cnn", "embeddings of activations, unused"),
        ("probegen", "", "small_cnn", "ProbeGen", "probegen_cnn"),
        ("probegen", "", "siren", "ProbeGen", "probegen_siren"),
    )
)
"""All comparisons."""
