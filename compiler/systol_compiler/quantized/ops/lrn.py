"""LRN: x / (bias + alpha / size * (squares of neighbouring channels)) ** beta.

Squares have 16 bits; their sums over channels are a product with a band of ones; the power is
looked up in a table for each range that the sum can be in (`ranged_sum`).
"""

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import INT16_LIMIT, Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.channel_sets import add_channel_sets
from systol_compiler.quantized.ops.elementwise import add_elementwise, reach
from systol_compiler.quantized.ops.expression import Step
from systol_compiler.quantized.ops.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reduce import add_squares

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
    size = int(node.attributes["size"])
    bias, beta = _attribute(node, "bias"), _attribute(node, "beta")
    factor = _attribute(node, "alpha") / size
    members = neighbours(x.shape[1], size)
    squares = add_squares(builder, x)
    most = int(members.sum(axis=1).max()) * max(map(abs, reach(x))) ** 2

    def add(part: QTensor, offset: float) -> None:
        add_channel_sets(
            builder, squares, part, members, axis=1, factor=factor, offset=offset - bias
        )

    spans = ranges(bias, bias + factor * most)
    ends = [end**-beta for end in (bias, spans[-1][1])]
    shares = builder.inner(x.shape, 1.05 * max(ends) / INT16_LIMIT, 0, 16)
    power = (Step(op="Pow", inputs=(0, -beta)),)
    add_ranged(builder, add, x.shape, power, spans, shares, suffix="power")
    add_elementwise(builder, "Mul", x, shares, out, clip=builder.clip(out), suffix="product")


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
