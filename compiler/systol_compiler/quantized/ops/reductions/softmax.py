"""Softmax and LogSoftmax along any axis, in integers.

For x of 8 bits: row maximum m; d = x - m, 8 bits and exact; e = exp(d), 16 bits by table and exact
to half a step; s = sum of e, exact; r = 1/s, 16 bits (`ranged_sum`); y = e * r, rounded once.
Of 16 bits, d has 16 bits and exp is interpolated. LogSoftmax is d - log s, or x - (m + log s) where
d is not exact.

Rows run along the softmax axis; the machine works on all channels (the other axes) of a row at
once, so that the axis lies outermost in memory: scores of attention are best written as
keys x queries.
"""

from math import log

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    NO_WISH,
    Operator,
    Rule,
    Wish,
)
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise, reach
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.reductions.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reductions.row_reduce import add_extremum, add_sum, reduced_shape

_LONGEST = 65_000
"""Elements of a row: as many numbers of 16 bits as a sum of 32 bits holds."""
_DEEPEST = log(2 * INT16_LIMIT) + 0.5
"""Where exp(-d) and the knots around it round to 0 in 16 bits."""
_HEADROOM = 32
"""How far reciprocals reach beyond the greatest result: a step of theirs is an eighth of a step of
an 8-bit result then, or a quarter."""
_MARGIN = 1.05
"""Room above the greatest reciprocal, so that no knot beside it saturates."""
_MASKED = -1e3
"""A constant this low, added to scores, forbids them."""
_MASKED_STEP = 1 / 256
"""Masked scores: 16 bits over -127.5..127.5, whatever the mask holds."""
_MOVES = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split",
    "Concat", "Expand",
})


def _axis(node: Node, graph: Graph) -> tuple[int, ...]:
    rank = len(graph.types[node.inputs[0]].shape)
    return (int(node.attributes.get("axis", -1)) % rank,)


def _shifted_exp(
    builder: LayerBuilder, x: QTensor, axis: tuple[int, ...]
) -> tuple[QTensor, QTensor, QTensor]:
    """The rows' maxima, x - maximum, and its exponential with 16 bits."""
    most = builder.inner(reduced_shape(x.shape, axis), x.scale, x.zero_point, x.width)
    add_extremum(builder, x, most, axis)
    if x.width == 8:
        # 0 is code 127, so that all 256 differences are exact.
        below = builder.inner(x.shape, x.scale, 127)
    else:
        step = max(_DEEPEST / INT16_LIMIT, x.scale / (1 << 16))
        below = builder.inner(x.shape, step, 0, 16)
    add_elementwise(builder, "Add", x, most, below, factors=(1, -1), suffix="below")
    powers = builder.inner(x.shape, 1 / INT16_LIMIT, 0, 16)
    add_table(builder, Expression((Step(op="Exp"),)), below, powers, suffix="exp")
    return most, below, powers


def _of_sum(
    builder: LayerBuilder, powers: QTensor, axis: tuple[int, ...], function: tuple[Step, ...],
    out: QTensor, suffix: str,
) -> None:
    """Add out = function(sum of powers): the sum lies between 1 and the rows' length."""

    def add(part: QTensor, offset: float) -> None:
        add_sum(builder, powers, part, axis, offset=offset)

    length = float(powers.shape[axis[0]])
    add_ranged(builder, add, out.shape, function, ranges(1.0, length), out, suffix=suffix)


def _build_softmax(node: Node, builder: LayerBuilder) -> None:
    x, out, axis = builder.tensor(node.inputs[0]), builder.output(), _axis(node, builder.graph)
    _, _, powers = _shifted_exp(builder, x, axis)
    shape = reduced_shape(x.shape, axis)
    most = min(1.0, _HEADROOM * reach(out)[1])
    shares = builder.inner(shape, _MARGIN * most / INT16_LIMIT, 0, 16)
    _of_sum(builder, powers, axis, (Step(op="Reciprocal"),), shares, "reciprocal")
    if most == 1.0:
        add_elementwise(builder, "Mul", powers, shares, out, suffix="product")
        return
    # Results are so small that finer reciprocals saturate in rows with one large element: there
    # the greater of two products is the one of a coarse reciprocal, which is never too great.
    fine = builder.inner(x.shape, out.scale, out.zero_point, out.width)
    add_elementwise(builder, "Mul", powers, shares, fine, suffix="product")
    coarse = builder.inner(shape, _MARGIN / INT16_LIMIT, 0, 16)
    lowered = (Step(op="Reciprocal"), Step(op="Add", inputs=(1, -2 / INT16_LIMIT)))
    _of_sum(builder, powers, axis, lowered, coarse, "reciprocal")
    rough = builder.inner(x.shape, out.scale, out.zero_point, out.width)
    add_elementwise(builder, "Mul", powers, coarse, rough, suffix="product")
    add_elementwise(builder, "Max", fine, rough, out, suffix="greater")


def _build_log_softmax(node: Node, builder: LayerBuilder) -> None:
    x, out, axis = builder.tensor(node.inputs[0]), builder.output(), _axis(node, builder.graph)
    most, below, powers = _shifted_exp(builder, x, axis)
    length = x.shape[axis[0]]
    logs = builder.inner(most.shape, max(log(length), 1.0) / INT16_LIMIT, 0, 16)
    _of_sum(builder, powers, axis, (Step(op="Log"),), logs, "log")
    if x.width == 16:
        largest = max(map(abs, reach(x))) + log(length)
        total = builder.inner(most.shape, largest / INT16_LIMIT * (1 + 2**-20), 0, 16)
        add_elementwise(builder, "Add", most, logs, total, suffix="total")
        below, logs = x, total
    add_elementwise(builder, "Add", below, logs, out, factors=(1, -1), suffix="difference")


def row_length(node: Node, graph: Graph) -> str | None:
    """a row must have at most 65,000 elements"""
    length = graph.types[node.inputs[0]].shape[_axis(node, graph)[0]]
    return f"{length} elements" if length > _LONGEST else None


def read_again(node: Node, graph: Graph) -> str | None:
    """its result must be read by a node that computes: at the end of a model the host computes
    what the machine has given, which costs no crossing"""
    alone = not _computes(node.inputs[0], graph)
    if alone or _computed_from(node.outputs[0], graph):
        return None
    return "a result of the model"


def _computes(name: str, graph: Graph) -> bool:
    """Whether more than moves stand between the model's inputs and the tensor."""
    producer = graph.producers.get(name)
    if producer is None:
        return False
    return producer.op not in _MOVES or any(_computes(part, graph) for part in producer.inputs)


def _computed_from(name: str, graph: Graph) -> bool:
    """Whether a node that does not only move values reads the tensor, behind moves too."""
    return any(
        reader.op not in _MOVES or any(_computed_from(out, graph) for out in reader.outputs)
        for reader in graph.consumers.get(name, [])
    )


def ranked(node: Node, graph: Graph) -> str | None:
    """its operand must have an axis"""
    return None if graph.types[node.inputs[0]].shape else "a scalar"


def _masked(name: str, graph: Graph) -> bool:
    """Whether a constant mask was added to these scores, or chosen in their place."""
    producer = graph.producers.get(name)
    if producer is None or producer.op not in ("Add", "Sub", "Where", "Min"):
        return False
    constants = [graph.constants[part] for part in producer.inputs if part in graph.constants]
    sign = -1 if producer.op == "Sub" else 1
    return any(
        values.dtype.kind == "f" and values.size and float((sign * values).min()) <= _MASKED
        for values in constants
    )


def _wish(node: Node, graph: Graph) -> Wish:
    """16 bits for masked scores, whose range has no meaning. The range of the result is that of the
    data: where rows are long, its elements are far from 1."""
    x = node.inputs[0]
    if graph.types[x].dtype != "float32" or not _masked(x, graph):
        return NO_WISH
    return Wish(wide=(x,), fixed=((x, _MASKED_STEP, 0),))


_RULES = (
    FLOAT32, COMPUTED_DATA,
    Rule(check=ranked, remedy="remove the node"),
    Rule(check=row_length, remedy="split the axis"),
    Rule(check=read_again, remedy="compile with strict", preference=True),
)

OPERATORS = (
    Operator(names=("Softmax",), build=_build_softmax, rules=_RULES, wish=_wish),
    Operator(names=("LogSoftmax",), build=_build_log_softmax, rules=_RULES, wish=_wish),
)
