"""Trained neural networks as data: neuron graphs, their exact symmetries, and graph metanetworks."""

from importlib.metadata import version as _version

from graphnfn import testing as testing
from graphnfn.effective import fold_norms as fold_norms
from graphnfn.errors import GraphNFNError as GraphNFNError
from graphnfn.graph import NeuralGraph as NeuralGraph
from graphnfn.io import load as load
from graphnfn.io import save as save
from graphnfn.models import GraphMetaNet as GraphMetaNet
from graphnfn.models import MetaNetConfig as MetaNetConfig
from graphnfn.plotting import plot as plot
from graphnfn.spec import NetSpec as NetSpec
from graphnfn.symmetry import act as act
from graphnfn.symmetry import canonical_signs as canonical_signs
from graphnfn.symmetry import canonicalize as canonicalize
from graphnfn.symmetry import random_element as random_element
from graphnfn.zoo import Zoo as Zoo

__version__ = _version("graphnfn")
