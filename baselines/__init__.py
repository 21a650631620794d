"""Published metanetworks, rebuilt to compare with; each reads a batch of NeuralGraphs."""

from baselines.registry import BaselineError as BaselineError
from baselines.registry import build as build
from baselines.registry import names as names
