"""What baselines raise."""

from graphnfn.errors import GraphNFNError


class BaselineError(GraphNFNError):
    """A baseline cannot be built so, or cannot read these networks."""
