"""The errors that graphnfn raises for bad input; each message says what was got, what was expected and what to do."""


class GraphNFNError(ValueError):
    """Base class: catch this to catch every error that graphnfn raises on purpose."""


class SpecError(GraphNFNError):
    """A NetSpec contradicts itself or does not fit the tensors it is used with."""


class SymmetryError(GraphNFNError):
    """A group element, charge or parity is used where it is not allowed."""


class ConversionError(GraphNFNError):
    """A checkpoint or module cannot be turned into a neuron graph, or not back."""


class ZooError(GraphNFNError):
    """A zoo folder is missing parts, is damaged, or contradicts itself."""
