"""What a float node costs by ONNX's definition of its operator, wherever it runs."""

from math import prod

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node


def node_macs(node: Node, graph: Graph) -> int:
    """Multiply-accumulates of a product of the canonical graph; 0 for everything else."""
    if node.op == "Conv":
        weights = graph.types[node.inputs[1]].shape
        return prod(graph.types[node.outputs[0]].shape) * prod(weights[1:])
    if node.op == "ConvTranspose":
        weights = graph.types[node.inputs[1]].shape
        return prod(graph.types[node.inputs[0]].shape) * prod(weights[1:])
    if node.op in ("Gemm", "MatMul"):
        inner = graph.types[node.inputs[0]].shape
        depth = inner[0] if node.attributes.get("transA", 0) else inner[-1]
        return prod(graph.types[node.outputs[0]].shape) * depth
    return 0


def elements(node: Node, graph: Graph) -> int:
    """Elements that the node touches: of its results or of its computed operands, whichever are
    more."""
    read = sum(prod(graph.types[n].shape) for n in _computed(node, graph))
    written = sum(prod(graph.types[n].shape) for n in node.outputs if n)
    return max(read, written)


def float_bytes(node: Node, graph: Graph) -> int:
    """Bytes that the node reads and writes in the model's own types, constants included."""
    names = [name for name in (*dict.fromkeys(node.inputs), *node.outputs) if name]
    return sum(prod(graph.types[n].shape) * _item_bytes(graph.types[n].dtype) for n in names)


def _computed(node: Node, graph: Graph) -> list[str]:
    return [name for name in dict.fromkeys(node.inputs) if name and name not in graph.constants]


def _item_bytes(dtype: str) -> int:
    try:
        return int(np.dtype(dtype).itemsize) or 1
    except TypeError:
        return 1
