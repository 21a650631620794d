"""LoL of Putterman et al. (2024), arXiv 2410.04207: models of low-rank adapters, with the symmetry of their factors.

They read ``{layer: (A [B, r, d_in], B [B, d_out, r])}``, no NeuralGraph, so they are not among ``baselines.names()``.
"""

from baselines.lol.glnet import GLGate as GLGate
from baselines.lol.glnet import GLLayers as GLLayers
from baselines.lol.glnet import GLNet as GLNet
from baselines.lol.glnet import PooledGLNet as PooledGLNet
from baselines.lol.glnet import from_official as from_official
from baselines.lol.pairs import LoraModel as LoraModel
from baselines.lol.pairs import Pairs as Pairs
from baselines.lol.pairs import Shapes as Shapes
from baselines.lol.pairs import change_basis as change_basis
from baselines.lol.pairs import lora_shapes as lora_shapes
from baselines.lol.plain import AlignedLoraMLP as AlignedLoraMLP
from baselines.lol.plain import DenseLoraMLP as DenseLoraMLP
from baselines.lol.plain import FlatLoraMLP as FlatLoraMLP
from baselines.lol.plain import SingularValueMLP as SingularValueMLP
