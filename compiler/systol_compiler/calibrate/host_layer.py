"""Builds host layers: a run of float nodes as an ONNX model with bytes that only depend on them."""

from collections.abc import Sequence

from systol_compiler.graph.float_graph import Graph, Node, TensorType, onnx_node, wrap_nodes
from systol_compiler.quantized.host import HostLayer


def build_host_layer(
    graph: Graph, name: str, nodes: Sequence[Node], outputs: Sequence[str], reason: str
) -> HostLayer:
    """`nodes` of `graph`, in order, as a host layer that gives the tensors `outputs`."""
    written = {tensor for node in nodes for tensor in node.outputs}
    read = dict.fromkeys(tensor for node in nodes for tensor in node.inputs if tensor)
    inputs = [t for t in read if t not in written and t not in graph.constants]
    model = wrap_nodes(
        name=f"{graph.name}.{name}",
        opset=graph.opset,
        nodes=[onnx_node(node) for node in nodes],
        inputs={tensor: graph.types[tensor] for tensor in inputs},
        outputs={tensor: graph.types[tensor] for tensor in outputs},
        constants=graph.constants,
    )
    return HostLayer(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        model=model.SerializeToString(deterministic=True),
        operators=tuple(dict.fromkeys(node.op for node in nodes)),
        reason=reason,
        source_nodes=tuple(dict.fromkeys(source for node in nodes for source in node.sources)),
    )


def passing_layer(graph: Graph, name: str, tensors: Sequence[str]) -> HostLayer:
    """Constants and inputs that the model gives as outputs, in order, as `TENSOR.out`."""
    nodes = [
        Node(
            name=f"{tensor}.out", op="Identity", inputs=(tensor,), outputs=(f"{tensor}.out",),
            sources=(),
        )
        for tensor in tensors
    ]
    inputs = [tensor for tensor in tensors if tensor not in graph.constants]
    types: dict[str, TensorType] = {f"{tensor}.out": graph.types[tensor] for tensor in tensors}
    model = wrap_nodes(
        name=f"{graph.name}.{name}",
        opset=graph.opset,
        nodes=[onnx_node(node) for node in nodes],
        inputs={tensor: graph.types[tensor] for tensor in inputs},
        outputs=types,
        constants=graph.constants,
    )
    return HostLayer(
        name=name, inputs=tuple(inputs), outputs=tuple(types),
        model=model.SerializeToString(deterministic=True), operators=("Identity",),
        reason="the value is an input as it is" if inputs else "the value is constant",
        source_nodes=(),
    )
