"""ScaleGMN (Kalogeropoulos et al. 2024, arXiv 2406.10685)."""

from baselines.scalegmn.encoder import Design as Design
from baselines.scalegmn.models import PermutationScaleGMN as PermutationScaleGMN
from baselines.scalegmn.models import PermutationScaleGMNAsPublished as PermutationScaleGMNAsPublished
from baselines.scalegmn.models import PermutationScaleGMNEditor as PermutationScaleGMNEditor
from baselines.scalegmn.models import ScaleGMN as ScaleGMN
from baselines.scalegmn.models import ScaleGMNAsPublished as ScaleGMNAsPublished
from baselines.scalegmn.models import ScaleGMNEditor as ScaleGMNEditor
from baselines.scalegmn.models import ScaleGMNEditorAsPublished as ScaleGMNEditorAsPublished
from baselines.scalegmn.official import from_official as from_official
