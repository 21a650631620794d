"""Monomial-NFN of Tran et al. (2024), arXiv 2409.11697: layers for scales and signs, invariant and editing networks."""

from baselines.monomial.layers import MonomialLinear as MonomialLinear
from baselines.monomial.layers import MonomialPool as MonomialPool
from baselines.monomial.layers import SignLinear as SignLinear
from baselines.monomial.models import HNPMonomialSiren as HNPMonomialSiren
from baselines.monomial.models import MonomialEditor as MonomialEditor
from baselines.monomial.models import MonomialEditorAsPublished as MonomialEditorAsPublished
from baselines.monomial.models import MonomialNFN as MonomialNFN
from baselines.monomial.models import NPMonomialSiren as NPMonomialSiren
from baselines.monomial.models import SignMonomialNFN as SignMonomialNFN
from baselines.monomial.models import UnitMonomialSiren as UnitMonomialSiren
from baselines.monomial.official import from_official as from_official
