"""``load_keras``: a Keras file as a module."""

from __future__ import annotations

from pathlib import Path

# the modules below register their layers
from converters.keras import attention, merge, ops, pool, recurrent, shape, wrappers  # noqa: F401
from converters.keras.examples import example_inputs
from converters.keras.files import opened
from converters.keras.layer import describe
from converters.keras.network import Network
from converters.keras.store import fill
from converters.loaded import Loaded
from graphnfn.errors import ConversionError


def load_keras(path: str | Path) -> Loaded:
    """The model in a whole-model HDF5 file or a ``.keras`` archive; nothing in it is executed.

    Values are laid out as in the file, mostly [batch, ...positions, channels], and so are kernels.  Names are
    ``layer.weight``; ``names`` maps them to paths of datasets in the file (in its ``model.weights.h5``).

    Args:
        path: of the file.

    Raises:
        ConversionError: the file is missing, damaged, too large, or holds a layer without a rule, such as Lambda.

    Example:
        >>> load_keras("missing.keras")
        Traceback (most recent call last):
        ...
        graphnfn.errors.ConversionError: missing.keras: no such file; expected a Keras model (.h5, .hdf5, .keras)
    """
    with opened(Path(path)) as file:
        network = model(file.config, file.version)
        names = fill(network, file)
        inputs = example_inputs(network)
    return Loaded(network.eval(), inputs, names)


def model(entry: object, version: int) -> Network:
    """The model that a configuration describes, without its tensors.

    Raises:
        ConversionError: it is no Sequential or functional model, or holds a layer without a rule.
    """
    config = describe(entry, version)
    if config.kind not in ("Functional", "Model", "Sequential"):
        raise ConversionError(
            f"got a model of class {config.kind!r}, expected Sequential or Functional: a class of one's own is code, "
            "which is not run. Give the model as an nn.Module or ONNX instead"
        )
    return Network(config)
