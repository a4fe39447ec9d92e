"""PRelu with constant slopes (ONNX PRelu): a table, or a scaled copy and a maximum."""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.pointwise.elementwise import NO_NAN, add_elementwise, add_product
from systol_compiler.quantized.ops.pointwise.expression import expression_of
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.rescale import add_rescale


def _build(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    clip = builder.clip(output)
    source, name = builder.tensor(node.inputs[0]), node.inputs[1]
    expression = expression_of(node, graph)
    if expression is not None:
        add_table(builder, expression, source, output, clip)
        return
    slopes = graph.constants[name].astype(np.float64)
    if np.all(slopes <= 1) or np.all(slopes >= 1):
        # Codes of the result's own numbers are not rounded a second time by the maximum.
        scaled = builder.inner(source.shape, output.scale, output.zero_point, output.width)
        add_product(builder, source, slopes, name, scaled, scaled.bounds)
        op = "Max" if np.all(slopes <= 1) else "Min"
        add_elementwise(builder, op, source, scaled, output, clip=clip)
        return
    # x + (slope - 1) * min(x, 0), the second part with 16 bits.
    negative = builder.inner(source.shape, source.scale, source.zero_point, source.width)
    zero = source.zero_point
    add_rescale(builder, source, negative, clip=(source.bounds[0], zero), suffix="negative")
    largest = float(np.abs(slopes - 1).max()) * (zero - source.bounds[0]) * source.scale
    scaled = builder.inner(source.shape, max(largest, source.scale) / 32639, 0, 16)
    add_product(builder, negative, slopes - 1, name, scaled, scaled.bounds)
    add_elementwise(builder, "Add", source, scaled, output, clip=clip)


def constant_slopes(node: Node, graph: Graph) -> str | None:
    """the slopes of PRelu must be constant and finite"""
    slopes = graph.constants.get(node.inputs[1])
    if slopes is None:
        return f"{node.inputs[1]!r} is computed"
    return None if bool(np.isfinite(slopes).all()) else f"{node.inputs[1]!r} is not finite"


OPERATORS = (
    Operator(
        names=("PRelu",), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA, NO_NAN,
            Rule(check=constant_slopes, remedy="train the slopes, then export them as constants"),
        ),
        clips=True,
    ),
)
