from graphnfn.graph import NeuralGraph as NeuralGraph
from graphnfn.spec import NetSpec as NetSpec
