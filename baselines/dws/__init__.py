"""DWSNets of Navon et al. (2023), arXiv 2301.12780: DWS layers, invariant and editing networks of them."""

from baselines.dws.models import DeepSetsDWSEditor as DeepSetsDWSEditor
from baselines.dws.models import DeepSetsDWSEditorAsPublished as DeepSetsDWSEditorAsPublished
from baselines.dws.models import DeepSetsDWSNet as DeepSetsDWSNet
from baselines.dws.models import DeepSetsDWSNetAsPublished as DeepSetsDWSNetAsPublished
from baselines.dws.models import DWSEditor as DWSEditor
from baselines.dws.models import DWSEditorAsPublished as DWSEditorAsPublished
from baselines.dws.models import DWSNet as DWSNet
from baselines.dws.models import DWSNetAsPublished as DWSNetAsPublished
from baselines.dws.official import from_official as from_official
