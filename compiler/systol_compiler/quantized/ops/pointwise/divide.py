"""Div and Pow: by a constant in one layer, by a computed tensor through its reciprocal."""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.pointwise.elementwise import (
    NO_NAN,
    ONE_COMPUTED,
    add_elementwise,
    add_product,
    reach,
)
from systol_compiler.quantized.ops.pointwise.expression import (
    Expression,
    Step,
    expression_of,
    scalar,
)
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.rescale import add_rescale

_RECIPROCAL = Expression((Step(op="Reciprocal"),))


def _divide(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    clip = builder.clip(output)
    above, below = node.inputs
    if below in graph.constants:
        source, divisor = builder.tensor(above), scalar(below, graph)
        if divisor is None or source.shape != output.shape:
            values = 1 / graph.constants[below].astype(np.float64)
            add_product(builder, source, values, below, output, clip)
        elif source.width == 8:
            add_table(builder, _of(node, graph), source, output, clip)
        else:
            add_rescale(builder, source, output, factor=1 / divisor, clip=clip)
        return
    divisor_tensor = builder.tensor(below)
    dividend = scalar(above, graph) if above in graph.constants else None
    if dividend is not None and divisor_tensor.shape == output.shape:
        add_table(builder, _of(node, graph), divisor_tensor, output, clip)
        return
    if above in graph.constants:
        values = graph.constants[above].astype(np.float64)
        inner = _reciprocal(builder, divisor_tensor, output, float(np.abs(values).max()) / 255)
        add_product(builder, inner, values, above, output, clip)
        return
    source = builder.tensor(above)
    inner = _reciprocal(builder, divisor_tensor, output, source.scale)
    add_elementwise(builder, "Mul", source, inner, output, clip=clip)


def _of(node: Node, graph: Graph) -> Expression:
    expression = expression_of(node, graph)
    assert expression is not None, node
    return expression


def _reciprocal(
    builder: LayerBuilder, source: QTensor, output: QTensor, step: float
) -> QTensor:
    """1 / source with 16 bits.

    Its range ends at the reciprocal of one step, or where a dividend of one `step` already leaves
    the range of the result.
    """
    largest = 1 / source.scale
    if step > 0:
        largest = min(largest, max(map(abs, reach(output))) / step)
    inner = builder.inner(source.shape, largest / INT16_LIMIT, 0, 16)
    add_table(builder, _RECIPROCAL, source, inner, suffix="reciprocal")
    return inner


def _power(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    clip = builder.clip(output)
    computed = next(name for name in node.inputs if name not in graph.constants)
    source = builder.tensor(computed)
    if scalar(node.inputs[1], graph) == 2 and source.width == 16:
        # A square is exact as a product; between the knots of a table it is not.
        add_elementwise(builder, "Mul", source, source, output, clip=clip)
        return
    add_table(builder, _of(node, graph), source, output, clip)


def one_function(node: Node, graph: Graph) -> str | None:
    """one operand of Pow must be a constant with a single value, which does not broadcast the
    other one"""
    if expression_of(node, graph) is None:
        return "the operands are " + " and ".join(
            f"{name!r} {graph.types[name]}" for name in node.inputs
        )
    computed = next(name for name in node.inputs if name not in graph.constants)
    if graph.types[computed].shape != graph.types[node.outputs[0]].shape:
        return f"{computed!r} of shape {graph.types[computed].shape} broadcasts"
    return None


OPERATORS = (
    Operator(
        names=("Div",), build=_divide, rules=(FLOAT32, ONE_COMPUTED, NO_NAN), clips=True,
    ),
    Operator(
        names=("Pow",), build=_power,
        rules=(
            FLOAT32, ONE_COMPUTED, NO_NAN,
            Rule(check=one_function, remedy="give the exponent as a number"),
        ),
        clips=True,
    ),
)
