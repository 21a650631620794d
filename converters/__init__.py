"""Checkpoints to neuron graphs and back."""

from converters.checking import verify as verify
from converters.convert import convert as convert
from converters.restore import restore as restore
from converters.restore import restore_file as restore_file
from graphnfn.errors import ConversionError as ConversionError
