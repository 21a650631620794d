"""What experiments raise."""

from graphnfn.errors import GraphNFNError


class ExperimentError(GraphNFNError):
    """A run is configured in a way that cannot work."""


class DivergedError(ExperimentError):
    """Training left the range of numbers."""
