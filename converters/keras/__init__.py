"""Keras models, read with h5py alone: whole-model HDF5 files and ``.keras`` archives, from Keras 2 and 3."""

from converters.keras.load import load_keras
from converters.keras.write import write_keras

__all__ = ["load_keras", "write_keras"]
