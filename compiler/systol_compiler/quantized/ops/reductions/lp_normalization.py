"""LpNormalization with p = 2 along one axis: an RMS normalization less a constant factor."""

from math import sqrt

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.moves.turn import turned
from systol_compiler.quantized.ops.reductions.normalization import add_normalization, rows_over
from systol_compiler.quantized.ops.reductions.row_reduce import channels_inside

_LONGEST = 65_000
"""Elements of a row: what exact sums of 16 bits hold."""


def _axis(node: Node, graph: Graph) -> int:
    return int(node.attributes.get("axis", -1)) % len(graph.types[node.inputs[0]].shape)


def _build(node: Node, builder: LayerBuilder) -> None:
    x, out, axis = builder.tensor(node.inputs[0]), builder.output(), _axis(node, builder.graph)
    count = x.shape[axis]
    if x.size > count:
        x = turned(builder, x, channels_inside(x.shape, (axis,)))
    add_normalization(
        builder, x, out, rows_over(x, (axis,)), epsilon=0.0, centred=False,
        scale=np.full(count, 1 / sqrt(count)), offset=np.zeros(count), axes=(axis,),
        clip=builder.clip(out),
    )


def euclidean(node: Node, graph: Graph) -> str | None:
    """p must be 2"""
    p = int(node.attributes.get("p", 2))
    return None if p == 2 else str(p)


def row_length(node: Node, graph: Graph) -> str | None:
    """the operand must have an axis, and a row at most 65,000 elements"""
    shape = graph.types[node.inputs[0]].shape
    if not shape:
        return "a scalar"
    count = shape[_axis(node, graph)]
    return f"{count} elements" if count > _LONGEST else None


OPERATORS = (
    Operator(
        names=("LpNormalization",), build=_build, clips=True,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=euclidean, remedy="write the norm as ReduceL1 and Div"),
            Rule(check=row_length, remedy="normalize shorter rows"),
        ),
    ),
)
