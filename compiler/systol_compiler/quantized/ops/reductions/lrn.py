"""LRN: x / (bias + alpha / size * (squares of neighbouring channels)) ** beta.

Squares are looked up; their sums over channels are a product with a band of ones; the power is
looked up once more, and multiplies x. All of that has 8 bits where the result does not show it
(`lrn_precision`); 16-bit sums whose range is too wide for a table have one for each part of it
(`ranged_sum`). Where the power hardly varies it is a constant.
"""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import INT8_MIN, Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise, reach
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.reductions.channel_sets import add_channel_sets
from systol_compiler.quantized.ops.reductions.lrn_precision import Response, Widths
from systol_compiler.quantized.ops.reductions.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reductions.reduce import add_squares
from systol_compiler.quantized.ops.rescale import add_rescale

_DEFAULTS = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
"""Ref: ONNX operator LRN, version 13."""
_LARGEST_POWER = 4.0


def _attribute(node: Node, name: str) -> float:
    return float(node.attributes.get(name, _DEFAULTS[name]))


def neighbours(channels: int, size: int) -> Array:
    """[channels, channels]: ones for floor((size - 1) / 2) channels before each one, itself, and
    ceil((size - 1) / 2) behind it."""
    distance = np.arange(channels) - np.arange(channels)[:, None]
    return (distance >= -((size - 1) // 2)) & (distance <= size // 2)


def _build(node: Node, builder: LayerBuilder) -> None:
    x, out = builder.tensor(node.inputs[0]), builder.output()
    clip, size = builder.clip(out), int(node.attributes["size"])
    members = neighbours(x.shape[1], size)
    response = Response(
        bias=_attribute(node, "bias"), beta=_attribute(node, "beta"),
        share=_attribute(node, "alpha") / size, most=int(members.sum(axis=1).max()),
        largest=max(map(abs, reach(x))), step=out.scale,
    )
    if response.constant:
        middle = sum(response.factors) / 2
        add_rescale(builder, x, out, factor=middle, clip=clip, suffix="product")
        return
    widths = response.widths(x.width)
    factor = _add_factor(builder, x, members, response, widths)
    add_elementwise(builder, "Mul", x, factor, out, clip=clip, suffix="product")


def _add_factor(
    builder: LayerBuilder, x: QTensor, members: Array, response: Response, widths: Widths | None
) -> QTensor:
    """Add the layers of what multiplies `x`; without `widths` sums are taken range by range."""
    bias, greatest = response.bias, response.greatest
    spans = [(bias, bias + greatest)] if widths else ranges(bias, bias + greatest)
    widths = widths or Widths(squares=16, sums=16, factor=16)
    squares = add_squares(builder, x, widths.squares)
    factor = builder.inner(
        x.shape, response.factor_step(widths.factor), _zero_point(widths.factor), widths.factor
    )
    power = Step(op="Pow", inputs=(0, -response.beta))

    def add(part: QTensor, offset: float) -> None:
        add_channel_sets(
            builder, squares, part, members, axis=1, factor=response.share, offset=offset - bias
        )

    if widths.sums == 16:
        add_ranged(builder, add, x.shape, (power,), spans, factor, suffix="power")
        return factor
    sums = builder.inner(x.shape, response.sum_step(8), _zero_point(8))
    add(sums, bias)
    shifted = (Step(op="Add", inputs=(0, bias)), Step(op="Pow", inputs=(1, -response.beta)))
    add_table(builder, Expression(shifted), sums, factor, suffix="power")
    return factor


def _zero_point(width: int) -> int:
    """Of tensors that are never negative."""
    return INT8_MIN if width == 8 else 0


def sane_numbers(node: Node, graph: Graph) -> str | None:
    """size, alpha and bias must be positive, and beta between 0 and 4"""
    values = {name: _attribute(node, name) for name in _DEFAULTS}
    size = int(node.attributes.get("size", 0))
    fine = size > 0 and 0 < values["alpha"] < np.inf and 0 < values["bias"] < np.inf
    if fine and 0 < values["beta"] <= _LARGEST_POWER:
        return None
    return f"size {size}, " + ", ".join(f"{name} {value:g}" for name, value in values.items())


def channelled(node: Node, graph: Graph) -> str | None:
    """the operand must have channels, at most 65,000"""
    shape = graph.types[node.inputs[0]].shape
    return f"shape {shape}" if len(shape) < 2 or shape[1] > 65_000 else None


OPERATORS = (
    Operator(
        names=("LRN",), build=_build, clips=True,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=channelled, remedy="reshape the operand"),
            Rule(check=sane_numbers, remedy="export the node with other attributes"),
        ),
    ),
)
