"""Checks for metanetworks: exactness under the symmetries, sensitivity to everything else, exact round trips."""

from graphnfn.testing.agreement import assert_batch_independent as assert_batch_independent
from graphnfn.testing.agreement import assert_pure as assert_pure
from graphnfn.testing.agreement import assert_same_function as assert_same_function
from graphnfn.testing.draws import act_each as act_each
from graphnfn.testing.draws import random_elements as random_elements
from graphnfn.testing.draws import random_graph as random_graph
from graphnfn.testing.draws import random_transform as random_transform
from graphnfn.testing.equivariance import assert_equivariant as assert_equivariant
from graphnfn.testing.equivariance import equivariance_error as equivariance_error
from graphnfn.testing.isomorphism import assert_isomorphic as assert_isomorphic
from graphnfn.testing.roundtrip import assert_roundtrip as assert_roundtrip
from graphnfn.testing.separation import assert_separates as assert_separates
from graphnfn.testing.separation import separating_transforms as separating_transforms
