"""Checkpoints to neuron graphs and back."""

from converters.checking import verify as verify
from converters.convert import convert as convert
from converters.restore import restore as restore
from graphnfn.errors import ConversionError as ConversionError
