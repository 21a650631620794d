"""Symmetries of weights: the activation table, charges, group elements, their action, canonical forms."""

from graphnfn.activations import NAMES as NAMES
from graphnfn.activations import TABLE as TABLE
from graphnfn.activations import Activation as Activation
from graphnfn.activations import ActivationRule as ActivationRule
from graphnfn.activations import Gauge as Gauge
from graphnfn.activations import as_activation as as_activation
from graphnfn.symmetry.action import act as act
from graphnfn.symmetry.balanced import balance as balance
from graphnfn.symmetry.balanced import balanced_scales as balanced_scales
from graphnfn.symmetry.canonical import canonical_scales as canonical_scales
from graphnfn.symmetry.canonical import canonical_signs as canonical_signs
from graphnfn.symmetry.canonical import canonicalize as canonicalize
from graphnfn.symmetry.charge import Charge as Charge
from graphnfn.symmetry.element import GroupAction as GroupAction
from graphnfn.symmetry.element import GroupElement as GroupElement
from graphnfn.symmetry.element import random_element as random_element
