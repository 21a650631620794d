"""Published metanetworks, rebuilt to compare with; each reads a batch of NeuralGraphs."""

from baselines.official import load_official as load_official
from baselines.official import official_classes as official_classes
from baselines.registry import BaselineError as BaselineError
from baselines.registry import adapter_names as adapter_names
from baselines.registry import build as build
from baselines.registry import build_editor as build_editor
from baselines.registry import class_of as class_of
from baselines.registry import editor_class_of as editor_class_of
from baselines.registry import editor_names as editor_names
from baselines.registry import names as names
