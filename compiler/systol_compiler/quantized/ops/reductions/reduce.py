"""ReduceSum, -Mean, -Max, -Min, -SumSquare, -L1 and -L2 over any axes.

Sums run on the matrix unit and are exact (`row_reduce`); squares have 16 bits, those of 8-bit codes
by table.
"""

from fractions import Fraction
from math import prod

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import ACCUMULATOR_LIMIT, INT8_MIN, INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    Operator,
    Rule,
    Wish,
    same_numbers,
)
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise, reach
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.reductions.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reductions.row_reduce import add_extremum, add_sum, reduced_shape
from systol_compiler.quantized.ops.rescale import add_rescale, matched

_LONGEST = 65_000
"""Elements that one exact sum takes whatever its operand's width."""
_ROOT_RATIO = 40.0
"""Widest range of a square root's table: off by 0.2 % of itself at most."""


def reduced_axes(node: Node, graph: Graph) -> tuple[int, ...] | None:
    """The axes of a reduction, ascending; all where none are named; None if they are computed."""
    rank = len(graph.types[node.inputs[0]].shape)
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        if node.inputs[1] not in graph.constants:
            return None
        axes = graph.constants[node.inputs[1]].reshape(-1)
    axes = [] if axes is None else list(axes)
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return ()
    return tuple(sorted(int(axis) % rank for axis in axes)) or tuple(range(rank))


def add_squares(builder: LayerBuilder, x: QTensor, width: int = 16) -> QTensor:
    """The squares of `x`, with all of `width` bits for the greatest possible one."""
    largest = max(map(abs, reach(x)))
    steps, zero_point = (255, INT8_MIN) if width == 8 else (INT16_LIMIT, 0)
    scale = largest * largest / steps * (1 + 2**-20)
    squares = builder.inner(x.shape, scale, zero_point, width)
    if x.width == 8:
        square = Expression((Step(op="Mul", inputs=(0, 0)),))
        add_table(builder, square, x, squares, suffix="square")
    else:
        add_elementwise(builder, "Mul", x, x, squares, suffix="square")
    return squares


def short_rows(
    builder: LayerBuilder, x: QTensor, axes: tuple[int, ...]
) -> tuple[QTensor, tuple[int, ...], int]:
    """`x` itself, or means over some of the axes with 16 bits, so that a sum over the axes that
    are left cannot overflow; those axes; and the number of elements in each mean."""
    rows = prod(x.shape[axis] for axis in axes)
    if rows * (abs(x.bounds[0]) + abs(x.zero_point)) < ACCUMULATOR_LIMIT - 1 or len(axes) < 2:
        return x, axes, 1
    first, rest = axes[-1:], axes[:-1]
    count = x.shape[first[0]]
    largest = max(map(abs, reach(x)))
    means = builder.inner(
        reduced_shape(x.shape, first), largest / INT16_LIMIT * (1 + 2**-20), 0, 16
    )
    add_sum(builder, x, means, first, factor=Fraction(1, count), suffix="mean")
    source, left, inner = short_rows(builder, means, rest)
    return source, left, count * inner


def add_reduction(
    builder: LayerBuilder, op: str, x: QTensor, out: QTensor, axes: tuple[int, ...],
    keepdims: bool,
) -> None:
    """Add the layers of one reduction."""
    if not axes:
        add_rescale(builder, x, out)
        return
    if op in ("ReduceMax", "ReduceMin"):
        add_extremum(
            builder, matched(builder, x, out), out, axes, maximum=op == "ReduceMax",
            keepdims=keepdims,
        )
        return
    rows = prod(x.shape[axis] for axis in axes)
    if op == "ReduceL1":
        # Of 8 bits at most 255 steps from the zero point.
        sizes = builder.inner(x.shape, x.scale, -128 if x.width == 8 else 0, x.width)
        add_elementwise(builder, "Max", x, x, sizes, factors=(1, -1), suffix="size")
        x = sizes
    elif op in ("ReduceSumSquare", "ReduceL2"):
        x = add_squares(builder, x)
    x, axes, share = short_rows(builder, x, axes)
    if op != "ReduceL2":
        factor = Fraction(share, rows) if op == "ReduceMean" else Fraction(share)
        add_sum(builder, x, out, axes, keepdims=keepdims, factor=factor)
        return
    kept = out.shape
    source, left, whole = x, axes, share

    def add(part: QTensor, offset: float) -> None:
        add_sum(
            builder, source, part, left, keepdims=keepdims, factor=Fraction(whole), offset=offset
        )

    greatest = min(rows * reach(x)[1], (1.02 * max(map(abs, reach(out)))) ** 2)
    least = min((4 * out.scale) ** 2, greatest / 2)
    # From 0 on: straight lines are off by a 16th of a step there.
    spans = [(0.0, least), *ranges(least, greatest, _ROOT_RATIO)]
    roots = builder.inner(kept, 1.05 * greatest**0.5 / INT16_LIMIT, 0, 16)
    add_ranged(builder, add, kept, (Step(op="Sqrt"),), spans, roots, suffix="root")
    add_rescale(builder, roots, out, suffix="rescale")


def _build(node: Node, builder: LayerBuilder) -> None:
    axes = reduced_axes(node, builder.graph)
    assert axes is not None, node
    add_reduction(
        builder, node.op, builder.tensor(node.inputs[0]), builder.output(), axes,
        bool(node.attributes.get("keepdims", 1)),
    )


def constant_axes(node: Node, graph: Graph) -> str | None:
    """the axes must be constant"""
    return f"{node.inputs[1]!r} is computed" if reduced_axes(node, graph) is None else None


def axis_length(node: Node, graph: Graph) -> str | None:
    """an axis that is reduced must have at most 65,000 elements"""
    shape = graph.types[node.inputs[0]].shape
    lengths = [shape[axis] for axis in reduced_axes(node, graph) or ()]
    return f"{max(lengths)} elements" if max(lengths, default=0) > _LONGEST else None


def _wish(node: Node, graph: Graph) -> Wish:
    """A maximum has the numbers of its operand."""
    if node.op not in ("ReduceMax", "ReduceMin"):
        return Wish()
    return same_numbers(node, graph)


OPERATORS = (
    Operator(
        names=(
            "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1",
            "ReduceL2",
        ),
        build=_build, wish=_wish,
        rules=(
            Rule(check=constant_axes, remedy="give the axes as a constant"),
            FLOAT32, COMPUTED_DATA,
            Rule(check=axis_length, remedy="reshape the tensor and reduce it in two steps"),
        ),
    ),
)
