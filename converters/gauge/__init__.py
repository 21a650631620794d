"""Which transformations of its weights leave a traced network the same function: inferred operator by operator.

Every axis of every tensor carries *atoms*, one per neuron, and every entry of such an axis a *scale variable*.
Operators say which atoms must move together and which scales must be equal, inverse, positive or one
(:mod:`~converters.gauge.rules`); what they leave free is the symmetry (:mod:`~converters.gauge.solve`).
"""
