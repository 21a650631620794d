"""NFN of Zhou et al. (2023), arXiv 2302.14040: NF-layers, invariant and editing networks of them."""

from baselines.nfn.encodings import Encoding as Encoding
from baselines.nfn.models import Head as Head
from baselines.nfn.models import HNPEditor as HNPEditor
from baselines.nfn.models import HNPInvariant as HNPInvariant
from baselines.nfn.models import NPEditor as NPEditor
from baselines.nfn.models import NPInvariant as NPInvariant
from baselines.nfn.models import PositionedNPInvariant as PositionedNPInvariant
from baselines.nfn.models import PositionedNPInvariantAsPublished as PositionedNPInvariantAsPublished
from baselines.nfn.official import from_official as from_official
