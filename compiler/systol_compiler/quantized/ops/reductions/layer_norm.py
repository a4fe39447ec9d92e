"""LayerNormalization and RMSNormalization over the last axes (`normalization`)."""

from math import prod

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.moves.turn import turned
from systol_compiler.quantized.ops.reductions.normalization import add_normalization, rows_over
from systol_compiler.quantized.ops.reductions.row_reduce import channels_inside

_LONGEST = 65_000
"""Elements of a row: what exact sums of 16 bits hold."""


def normalized_axes(node: Node, graph: Graph) -> tuple[int, ...]:
    """The axes of a row."""
    rank = len(graph.types[node.inputs[0]].shape)
    return tuple(range(int(node.attributes.get("axis", -1)) % rank, rank))


def _build(node: Node, builder: LayerBuilder) -> None:
    graph = builder.graph
    x, out, axes = builder.tensor(node.inputs[0]), builder.output(), normalized_axes(node, graph)
    shape = tuple(x.shape[axis] for axis in axes)
    if x.size > prod(shape):
        # Mean and deviation then are rows that repeat, and not columns to be spread.
        x = turned(builder, x, channels_inside(x.shape, axes))
    scale = np.broadcast_to(graph.constants[node.inputs[1]].astype(np.float64), shape)
    offset = np.zeros(shape)
    if len(node.inputs) > 2 and node.inputs[2]:
        offset = np.broadcast_to(graph.constants[node.inputs[2]].astype(np.float64), shape)
    add_normalization(
        builder, x, out, rows_over(x, axes), epsilon=float(node.attributes.get("epsilon", 1e-5)),
        centred=node.op == "LayerNormalization", scale=scale, offset=offset, axes=axes,
        clip=builder.clip(out),
    )


def constant_parameters(node: Node, graph: Graph) -> str | None:
    """scale and bias must be constant, finite, and of the shape of a row"""
    shape = graph.types[node.inputs[0]].shape
    row = tuple(shape[axis] for axis in normalized_axes(node, graph)) if shape else ()
    for name in filter(None, node.inputs[1:]):
        values = graph.constants.get(name)
        if values is None:
            return f"{name!r} is computed"
        if not bool(np.isfinite(values).all()):
            return f"{name!r} is not finite"
        try:
            fits = np.broadcast_shapes(values.shape, row) == row
        except ValueError:
            fits = False
        if not fits:
            return f"{name!r} of shape {values.shape} for rows of {row}"
    return None


def one_result(node: Node, graph: Graph) -> str | None:
    """mean and deviation must not be asked for as results of their own"""
    shown = {output.tensor for output in graph.outputs}
    for name in filter(None, node.outputs[1:]):
        if name in shown or graph.consumers.get(name):
            return repr(name)
    return None


def row_length(node: Node, graph: Graph) -> str | None:
    """a row must have at most 65,000 elements"""
    shape = graph.types[node.inputs[0]].shape
    count = prod(shape[axis] for axis in normalized_axes(node, graph))
    return f"{count} elements" if count > _LONGEST else None


def sane_epsilon(node: Node, graph: Graph) -> str | None:
    """epsilon must be finite and not negative"""
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return None if 0 <= epsilon < float("inf") else str(epsilon)


ONE_RESULT = Rule(check=one_result, remedy="remove the readers of the other results")
EPSILON = Rule(check=sane_epsilon, remedy="export the node with a small positive epsilon")

OPERATORS = (
    Operator(
        names=("LayerNormalization", "RMSNormalization"), build=_build, clips=True,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_parameters, remedy="export the model in inference mode"),
            ONE_RESULT, EPSILON,
            Rule(check=row_length, remedy="normalize over fewer axes"),
        ),
    ),
)
