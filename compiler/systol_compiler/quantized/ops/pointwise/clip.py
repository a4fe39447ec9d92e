"""Clip and Relu that no layer before them takes in (ONNX Clip and Relu)."""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.forms.clips import clip_bounds
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.rescale import add_rescale


def _build(node: Node, builder: LayerBuilder) -> None:
    bounds = clip_bounds(node, builder.graph)
    assert bounds is not None, node
    output = builder.output()
    add_rescale(
        builder, builder.tensor(node.inputs[0]), output, clip=code_bounds(output, *bounds)
    )


def code_bounds(tensor: QTensor, least: float, greatest: float) -> tuple[int, int]:
    """Codes of `tensor` nearest to the real numbers `least` and `greatest`, which may be
    infinite."""
    codes = np.rint(np.array([least, greatest]) / tensor.scale) + tensor.zero_point
    low, high = np.clip(codes, *tensor.bounds).astype(int).tolist()
    return low, high


def constant_bounds(node: Node, graph: Graph) -> str | None:
    """the bounds of a Clip must be constant numbers"""
    if clip_bounds(node, graph) is not None:
        return None
    return ", ".join(repr(name) for name in node.inputs[1:3] if name)


OPERATORS = (
    Operator(
        names=("Clip", "Relu"), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_bounds, remedy="export the bounds as constants"),
        ),
    ),
)
