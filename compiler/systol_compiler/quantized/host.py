"""Host layers: what ONNX Runtime computes, in real numbers, anywhere in the graph."""

from dataclasses import dataclass

from systol_compiler.graph.float_graph import TensorType


@dataclass(frozen=True, kw_only=True, eq=False)
class HostLayer:
    """A run of the model's nodes as an ONNX model over tensors of the model's own types.

    Attributes
    ----------
    name
        Unique in the graph.
    inputs, outputs
        Names of real tensors (`QuantizedGraph.real`): the ONNX model's inputs and outputs.
    model
        Serialized ModelProto.
    operators
        Operators inside, each once.
    reason
        Why they are on the host.
    source_nodes
        Names of the model's nodes.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: bytes
    operators: tuple[str, ...]
    reason: str
    source_nodes: tuple[str, ...]

    def __str__(self) -> str:
        results = ", ".join(f"%{name}" for name in self.outputs)
        operands = ", ".join(f"%{name}" for name in self.inputs)
        return f"{results} = host({operands}) {'+'.join(self.operators)}  # {self.reason}"


RealTensors = dict[str, TensorType]
