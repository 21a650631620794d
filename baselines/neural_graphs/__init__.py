"""Neural graphs of Kofinas et al. (ICLR 2024), arXiv 2403.12143: NG-GNN and NG-T, predicting and editing."""

from baselines.neural_graphs.features import Inputs as Inputs
from baselines.neural_graphs.models import NGGNN as NGGNN
from baselines.neural_graphs.models import NGGNNAsPublished as NGGNNAsPublished
from baselines.neural_graphs.models import NGGNNEditor as NGGNNEditor
from baselines.neural_graphs.models import NGGNNEditorAsPublished as NGGNNEditorAsPublished
from baselines.neural_graphs.models import NGTransformer as NGTransformer
from baselines.neural_graphs.models import NGTransformerEditor as NGTransformerEditor
from baselines.neural_graphs.official import from_official as from_official
from baselines.neural_graphs.transformer import Sizes as Sizes
