"""MAGEP-NFN of Vo et al. (2025), arXiv 2410.04213: polynomial layers for scales and signs, invariant networks."""

from baselines.magep.layers import PolynomialLinear as PolynomialLinear
from baselines.magep.layers import PolynomialPool as PolynomialPool
from baselines.magep.models import MagepNFN as MagepNFN
from baselines.magep.models import SignMagepNFN as SignMagepNFN
from baselines.magep.official import from_official as from_official
