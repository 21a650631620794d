"""What official codes cost on this machine: clones of them, timed step by step beside our models.

A folder holds clones named nfn (AllanYangZhou), Monomial-NFN (MathematicalAI-NUS), MAGEP-NFN (Fsoft-AIC), DWSNets
(AvivNavon), scalegmn (jkalogero), neural-graphs (mkofinas) and ProbeGen (jonkahana), some or all; see
:mod:`experiments.peers.times`. Nothing of them is part of this repository.
"""
