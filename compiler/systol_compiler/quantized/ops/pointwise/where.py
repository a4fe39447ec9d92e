"""Where with a constant condition: one minimum or maximum, or products with masks of 0 and 1."""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import Operator, Rule
from systol_compiler.quantized.ops.pointwise.elementwise import (
    NO_NAN,
    ONE_COMPUTED,
    add_elementwise,
    constant_operand,
    reach,
)


def _build(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    chosen = graph.constants[node.inputs[0]].astype(bool)
    clip = builder.clip(output)
    first, second = node.inputs[1:]
    if first in graph.constants:
        first, second, chosen = second, first, ~chosen
    source = builder.tensor(first)
    if second not in graph.constants:
        left = _masked(builder, source, chosen)
        right = _masked(builder, builder.tensor(second), ~chosen)
        add_elementwise(builder, "Add", left, right, output, clip=clip)
        return
    limits, bounds = reach(output), reach(source)
    values = np.clip(graph.constants[second].astype(np.float64), *limits)
    wide = np.broadcast_shapes(chosen.shape, values.shape)
    chosen, values = np.broadcast_to(chosen, wide), np.broadcast_to(values, wide)
    others = values[~chosen]
    if np.all(others <= max(bounds[0], limits[0])):
        # Nothing of the source is less than what replaces it: a minimum chooses.
        constant = np.where(chosen, bounds[1], np.minimum(values, bounds[0]))
        _extreme(builder, "Min", source, constant, output, clip, second)
    elif np.all(others >= min(bounds[1], limits[1])):
        constant = np.where(chosen, bounds[0], np.maximum(values, bounds[1]))
        _extreme(builder, "Max", source, constant, output, clip, second)
    else:
        masked = _masked(builder, source, chosen)
        constant = np.where(chosen, 0.0, values)
        add_elementwise(
            builder, "Add", masked, constant_operand(builder, second, constant, output),
            output, clip=clip,
        )


def _extreme(
    builder: LayerBuilder, op: str, source: QTensor, values: Array, output: QTensor,
    clip: tuple[int, int], name: str,
) -> None:
    constant = constant_operand(builder, name, values, output)
    add_elementwise(builder, op, source, constant, output, clip=clip)


def _masked(builder: LayerBuilder, source: QTensor, chosen: Array) -> QTensor:
    """`source` where `chosen`, exactly; elsewhere 0."""
    mask = builder.codes(f"{source.name}.mask", chosen.astype(np.int8), 1.0, 0)
    shape = np.broadcast_shapes(source.shape, chosen.shape)
    inner = builder.inner(shape, source.scale, source.zero_point, source.width)
    add_elementwise(builder, "Mul", source, mask, inner, suffix="masked")
    return inner


def constant_condition(node: Node, graph: Graph) -> str | None:
    """the condition of Where must be constant"""
    return None if node.inputs[0] in graph.constants else f"{node.inputs[0]!r} is computed"


def float32_choices(node: Node, graph: Graph) -> str | None:
    """the values that Where chooses from must be float32, and not all constant"""
    for name in node.inputs[1:]:
        if name not in graph.constants and graph.types[name].dtype != "float32":
            return f"{name!r} of type {graph.types[name].dtype}"
    if all(name in graph.constants for name in node.inputs[1:]):
        return "all are constant"
    return None


OPERATORS = (
    Operator(
        names=("Where",), build=_build,
        rules=(
            Rule(check=constant_condition, remedy="compute the condition before exporting"),
            Rule(check=float32_choices, remedy="export the model in float32"),
            ONE_COMPUTED, NO_NAN,
        ),
        clips=True,
    ),
)
