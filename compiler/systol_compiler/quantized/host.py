"""Host layers: what ONNX Runtime computes, in real numbers, anywhere in the graph."""

from dataclasses import dataclass

from systol_compiler.quantized.layer import HEAD_FIELDS
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import show_fields
from systol_compiler.text.statement import show_head


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return (
            f"HostLayer({self.name!r}, {len(self.source_nodes)} nodes: {', '.join(self.operators)})"
        )

    def text_parts(self, printer: Printer) -> list[str]:
        """The text's parts: head, then every field that is declared."""
        head = show_head(
            "host", name=self.name, sources=self.source_nodes, results=self.outputs,
            operands=self.inputs,
        )
        return [head, *show_fields(self, printer, HEAD_FIELDS)]

    def __str__(self) -> str:
        return " ".join(self.text_parts(Printer()))
