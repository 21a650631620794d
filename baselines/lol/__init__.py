"""LoL of Putterman et al. (2024), arXiv 2410.04207: models of low-rank adapters, with the symmetry of their factors.

They read ``{layer: (A [B, r, d_in], B [B, d_out, r])}``; under the names in ``baselines.adapter_names()`` they take
them out of a batch of NeuralGraphs that hold converted adapters.
"""

from baselines.lol.glnet import GLGate as GLGate
from baselines.lol.glnet import GLLayers as GLLayers
from baselines.lol.glnet import GLNet as GLNet
from baselines.lol.glnet import PooledGLNet as PooledGLNet
from baselines.lol.glnet import from_official as from_official
from baselines.lol.graphs import AdapterModel as AdapterModel
from baselines.lol.graphs import AlignedLoL as AlignedLoL
from baselines.lol.graphs import DenseLoL as DenseLoL
from baselines.lol.graphs import FactorPair as FactorPair
from baselines.lol.graphs import FlatLoL as FlatLoL
from baselines.lol.graphs import LoL as LoL
from baselines.lol.graphs import SingularValueLoL as SingularValueLoL
from baselines.lol.graphs import factor_pairs as factor_pairs
from baselines.lol.pairs import LoraModel as LoraModel
from baselines.lol.pairs import Pairs as Pairs
from baselines.lol.pairs import Shapes as Shapes
from baselines.lol.pairs import change_basis as change_basis
from baselines.lol.pairs import lora_shapes as lora_shapes
from baselines.lol.plain import AlignedLoraMLP as AlignedLoraMLP
from baselines.lol.plain import DenseLoraMLP as DenseLoraMLP
from baselines.lol.plain import FlatLoraMLP as FlatLoraMLP
from baselines.lol.plain import SingularValueMLP as SingularValueMLP
