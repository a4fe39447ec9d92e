"""Two operands, element by element: one exact number, rounded once (docs/numerics.md, 5).

ONNX Add, Sub, Mul, Min and Max with broadcasting, of computed tensors and constants; Sum, Mean, Min
and Max of several; Neg and Abs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Binary
from systol_compiler.numbers.limits import INT16_LIMIT, MULTIPLIER_MAX, SHIFT_MAX, Array
from systol_compiler.numbers.pointwise import rounded, whole
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.pointwise.channel_scale import add_channel_scale
from systol_compiler.quantized.ops.pointwise.expression import expression_of, scalar
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.rescale import add_rescale, multiplier_of
from systol_hw.errors import InputError
from systol_hw.isa.choices import Function

_CONSTANT_BITS = 5
"""Bits of a step of the result that constants are stated to."""
_COMBINE: Mapping[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Mul": np.multiply, "Min": np.minimum, "Max": np.maximum,
}
_FUNCTIONS = {"Add": Function.ADD, "Mul": Function.MUL, "Min": Function.MIN, "Max": Function.MAX}


@dataclass(frozen=True, kw_only=True, eq=False)
class Elementwise(Layer):
    """`factors[0] * a op factors[1] * b`, or for Mul `factors[0] * a * b`; broadcast as numpy does.

    Attributes
    ----------
    op
        Add, Mul, Min or Max.
    factors
        Real factors of the operands; a subtraction is an addition with a factor of -1.
    multipliers, shift
        Of the operands' codes less their zero points: what `multipliers_of` gives.
    lo, hi
        Clip of the result's codes.
    fixed
        Whether b is a constant of the graph.
    """

    kind: ClassVar[str] = "elementwise"

    op: str
    factors: tuple[Fraction, Fraction]
    multipliers: tuple[int, int]
    shift: int
    lo: int
    hi: int
    fixed: bool = False

    def verify(self, tensors: Tensors) -> None:
        a, b, output = (tensors[name] for name in (*self.inputs, *self.outputs))
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            shape = None
        if shape != output.shape:
            raise InputError(
                f"layer {self.name!r}: operands of shapes {a.shape} and {b.shape} must broadcast "
                f"to {output.shape}"
            )
        expected = multipliers_of(self.op, self.factors, a, b, output)
        if (self.multipliers, self.shift) != expected:
            raise InputError(
                f"layer {self.name!r}: multipliers and shift must be {expected} for the tensors' "
                f"scales, but are {(self.multipliers, self.shift)}"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        output = tensors[self.outputs[0]]
        a, b = (
            whole(value, tensors[name].zero_point)
            for value, name in zip(values, self.inputs, strict=True)
        )
        a *= self.multipliers[0]
        if self.op != "Mul":
            b *= self.multipliers[1]
        # Below 2**34, or 2**48: exact.
        return [
            rounded(
                _COMBINE[self.op](a, b), self.shift, output.zero_point, self.lo, self.hi,
                output.width,
            )
        ]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        # Operands of the same rank that broadcast lie in the same order.
        rank, wish = len(tensors[self.outputs[0]].shape), results[0]
        return [wish if len(tensors[name].shape) == rank else None for name in self.inputs]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        # The order of the operand with most elements: it is the one that costs to read askew.
        output, hint = tensors[self.outputs[0]], hints[0]
        candidates = [
            (tensors[name].size, -place, order)
            for place, (name, order) in enumerate(zip(self.inputs, given, strict=True))
            if len(order) == len(output.shape) and not (place == 1 and self.fixed)
        ]
        if not candidates:
            return [hint or tuple(range(len(output.shape)))]
        return [max(candidates)[2]]

    def lower(self, builder: NestBuilder) -> None:
        a, b, output = (builder.tensor(name) for name in (*self.inputs, *self.outputs))
        out = builder.place(output.name)
        operation = Binary(
            function=_FUNCTIONS[self.op], a_zero_point=a.zero_point, b_zero_point=b.zero_point,
            a_multiplier=self.multipliers[0], b_multiplier=self.multipliers[1], shift=self.shift,
        )
        builder.elementwise(
            operation, out, builder.view(a.name).expand(out.shape),
            builder.view(b.name).expand(out.shape), zero_point=output.zero_point, lo=self.lo,
            hi=self.hi,
        )

    def export(self, exporter: QdqExporter) -> None:
        values = []
        for name, factor in zip(self.inputs, self.factors, strict=True):
            value = exporter.real(name)
            if factor != 1:
                constant = exporter.constant(np.array(float(factor), np.float32))
                value = exporter.node("Mul", [value, constant])[0]
            values.append(value)
        result = exporter.node(self.op, values)[0]
        exporter.result(self.outputs[0], result, self.lo, self.hi)

    def batched(self, tensors: Tensors) -> bool:
        a, b, output = (tensors[name].shape for name in (*self.inputs, *self.outputs))
        if not output:
            return False
        outer = len(b) == len(output) and b[0] != 1
        if self.fixed:
            return len(a) == len(output) and a[0] == output[0] and not outer
        return len(a) == len(b) == len(output) and a[0] == b[0] == output[0]


def multipliers_of(
    op: str, factors: tuple[Fraction, Fraction], a: QTensor, b: QTensor, output: QTensor
) -> tuple[tuple[int, int], int]:
    """Multipliers of the operands' steps in steps of the result, and their shift: the greatest one
    with which both fit 18 bits, so that each is as near as can be.

    Where a step of an operand is 2**17 steps of the result or more, both are as much smaller as
    makes the greater one fit: sums that are not 0 saturate all the same.
    """
    if op == "Mul":
        product = Fraction(a.scale) * factors[0] * factors[1]
        multiplier, shift = multiplier_of(b, output, product)
        return (multiplier, 1), shift
    reals = [
        factor * Fraction(tensor.scale) / Fraction(output.scale)
        for factor, tensor in zip(factors, (a, b), strict=True)
    ]
    largest = max(map(abs, reals))
    if largest > MULTIPLIER_MAX:
        reals = [real * MULTIPLIER_MAX / largest for real in reals]
        largest = Fraction(MULTIPLIER_MAX)
    shift = 0
    if largest:
        # An estimate from the number's bits that may be one too small or too great.
        bits = largest.numerator.bit_length() - largest.denominator.bit_length()
        shift = min(max(16 - bits + 1, 0), SHIFT_MAX)
        while shift and round(largest * 2**shift) > MULTIPLIER_MAX:
            shift -= 1
    first, second = (round(real * 2**shift) for real in reals)
    return (first, second), shift


def add_elementwise(
    builder: LayerBuilder, op: str, a: QTensor, b: QTensor, output: QTensor, *,
    factors: tuple[Fraction | int, Fraction | int] = (1, 1),
    clip: tuple[int, int] | None = None, suffix: str = "",
) -> None:
    """Add a layer of `op` (Add, Mul, Min, Max) with real `factors` of the operands."""
    if a.name in builder.constants:
        a, b, factors = b, a, (factors[1], factors[0])
    exact = Fraction(factors[0]), Fraction(factors[1])
    name = builder.layer_name(suffix)
    multipliers, shift = multipliers_of(op, exact, a, b, output)
    lo, hi = clip or output.bounds
    builder.add(
        Elementwise(
            name=name, inputs=(a.name, b.name), outputs=(output.name,),
            source_nodes=builder.current.sources, op=op, factors=exact, multipliers=multipliers,
            shift=shift, lo=lo, hi=hi, fixed=b.name in builder.constants,
        )
    )


def reach(tensor: QTensor) -> tuple[float, float]:
    """Least and greatest real number that a code of `tensor` stands for."""
    low, high = tensor.bounds
    return (low - tensor.zero_point) * tensor.scale, (high - tensor.zero_point) * tensor.scale


def constant_operand(
    builder: LayerBuilder, name: str, values: Array, output: QTensor
) -> QTensor:
    """A constant tensor of real `values` to be added to, or compared with, steps of `output`.

    Its step is one of `output`'s over a power of two, whose multiplier is exact, as fine as the
    values need and as 16 bits hold: at most a 64th of a step is lost. It has 8 bits if they do.
    """
    steps = values / output.scale
    finest = 0
    for bits in range(_CONSTANT_BITS + 1):
        codes = np.rint(steps * 2**bits)
        if np.abs(codes).max() > INT16_LIMIT:
            break
        finest = bits
        if np.abs(codes - steps * 2**bits).max() <= 2.0 ** (bits - _CONSTANT_BITS - 1):
            break
    codes = np.clip(np.rint(steps * 2**finest), -INT16_LIMIT, INT16_LIMIT)
    narrow = codes.min() >= -128 and codes.max() <= 127
    return builder.codes(
        name, codes.astype(np.int8 if narrow else np.int16), output.scale / 2**finest, 0
    )


def bounded_operand(builder: LayerBuilder, name: str, output: QTensor) -> QTensor:
    """The tensor `name`; a constant is cut to what `output` can hold."""
    if name not in builder.graph.constants:
        return builder.tensor(name)
    values = np.clip(builder.graph.constants[name].astype(np.float64), *reach(output))
    return constant_operand(builder, name, values, output)


def _build(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    clip = builder.clip(output)
    computed = [name for name in node.inputs if name not in graph.constants]
    if len(node.inputs) == 1:
        _of_one(node, builder, output, clip)
    elif node.op in ("Sum", "Mean"):
        _sum(node, builder, output, clip)
    elif len(node.inputs) == 2 and len(computed) == 1:
        _with_constant(node, builder, output, clip)
    else:
        op = "Add" if node.op == "Sub" else node.op
        factors = (1, -1) if node.op == "Sub" else (1, 1)
        names = list(node.inputs)
        a = bounded_operand(builder, names[0], output)
        for place, name in enumerate(names[1:], 2):
            b = bounded_operand(builder, name, output)
            shape = np.broadcast_shapes(a.shape, b.shape)
            result = output
            if place < len(names):
                # Codes of the result's numbers pass through the rest of the chain unrounded.
                result = builder.inner(shape, output.scale, output.zero_point, output.width)
            add_elementwise(
                builder, op, a, b, result, factors=factors,
                clip=clip if place == len(names) else None,
            )
            a = result


def _of_one(
    node: Node, builder: LayerBuilder, output: QTensor, clip: tuple[int, int]
) -> None:
    """Neg, Abs; and Sum, Mean, Min, Max of one operand."""
    source = builder.tensor(node.inputs[0])
    if node.op == "Abs":
        add_elementwise(builder, "Max", source, source, output, factors=(1, -1), clip=clip)
    else:
        add_rescale(builder, source, output, factor=-1 if node.op == "Neg" else 1, clip=clip)


def _with_constant(
    node: Node, builder: LayerBuilder, output: QTensor, clip: tuple[int, int]
) -> None:
    graph = builder.graph
    place = 0 if node.inputs[0] in graph.constants else 1
    source = builder.tensor(node.inputs[1 - place])
    name = node.inputs[place]
    values = graph.constants[name].astype(np.float64)
    expression = expression_of(node, graph)
    if expression is not None and source.shape == output.shape:
        if source.width == 8:
            add_table(builder, expression, source, output, clip)
            return
        if node.op == "Mul":
            factor = scalar(name, graph)
            assert factor is not None, node
            add_rescale(builder, source, output, factor=factor, clip=clip)
            return
    if node.op == "Mul":
        add_product(builder, source, values, name, output, clip)
        return
    if node.op in ("Min", "Max"):
        constant = bounded_operand(builder, name, output)
        add_elementwise(builder, node.op, source, constant, output, clip=clip)
        return
    signs = (1, 1)
    if node.op == "Sub":
        signs = (1, -1) if place == 1 else (-1, 1)
    # What lies beyond saturates: infinite masks become finite, and keep a fine scale.
    low, high = reach(output)
    inner_low, inner_high = sorted(signs[0] * bound for bound in reach(source))
    limits = sorted(signs[1] * bound for bound in (low - inner_high, high - inner_low))
    constant = constant_operand(builder, name, np.clip(values, limits[0], limits[1]), output)
    add_elementwise(builder, "Add", source, constant, output, factors=signs, clip=clip)


def add_product(
    builder: LayerBuilder, source: QTensor, values: Array, name: str, output: QTensor,
    clip: tuple[int, int],
) -> None:
    """Add the layer of `source` times a constant: exact by channel where it varies along one axis
    alone, else by a 16-bit constant."""
    rank = len(output.shape)
    wide = values.reshape((1,) * (rank - values.ndim) + values.shape)
    axes = [axis for axis, size in enumerate(wide.shape) if size > 1]
    if len(axes) == 1 and source.shape == output.shape and axes[0] > 0:
        add_channel_scale(builder, source, wide.reshape(-1), axes[0], output, clip)
        return
    constant = builder.constant(name, values, width=16)
    add_elementwise(builder, "Mul", source, constant, output, clip=clip)


def _sum(node: Node, builder: LayerBuilder, output: QTensor, clip: tuple[int, int]) -> None:
    """A chain with 16-bit partial sums whose scale holds whatever they can become."""
    share = Fraction(1, len(node.inputs)) if node.op == "Mean" else Fraction(1)
    constants = builder.graph.constants
    terms: list[tuple[QTensor, Fraction]] = []
    for name in sorted(node.inputs, key=lambda name: name in constants):
        if name in constants:
            values = constants[name].astype(np.float64) * float(share)
            terms.append((constant_operand(builder, name, values, output), Fraction(1)))
        else:
            terms.append((builder.tensor(name), share))
    (a, factor), *others = terms
    largest = max(map(abs, reach(a))) * float(factor)
    for place, (b, share) in enumerate(others, 2):
        largest += max(map(abs, reach(b))) * float(share)
        last, result = place == len(terms), output
        if not last:
            shape = np.broadcast_shapes(a.shape, b.shape)
            result = builder.inner(shape, largest / INT16_LIMIT * (1 + 2**-20), 0, 16)
        add_elementwise(
            builder, "Add", a, b, result, factors=(factor, share), clip=clip if last else None
        )
        a, factor = result, Fraction(1)


def no_nan(node: Node, graph: Graph) -> str | None:
    """constants must not hold NaN, those of Mul, Div, Sum and Mean no infinity, a divisor no 0"""
    for place, name in enumerate(node.inputs):
        values = graph.constants.get(name)
        if values is None:
            continue
        if bool(np.isnan(values).any()):
            return f"NaN in {name!r}"
        if node.op in ("Mul", "Div", "Sum", "Mean") and not bool(np.isfinite(values).all()):
            return f"an infinity in {name!r}"
        if node.op == "Div" and place == 1 and not bool(values.all()):
            return f"a zero in {name!r}"
    return None


def one_computed(node: Node, graph: Graph) -> str | None:
    """at least one operand must be computed"""
    if all(name in graph.constants for name in node.inputs):
        return "all are constant"
    return None


ONE_COMPUTED = Rule(check=one_computed, remedy="fold the node before exporting")
NO_NAN = Rule(check=no_nan, remedy="clean the constant")

OPERATORS = (
    Operator(
        names=("Add", "Sub", "Mul", "Min", "Max", "Sum", "Mean", "Neg", "Abs"), build=_build,
        rules=(FLOAT32, ONE_COMPUTED, NO_NAN), clips=True,
    ),
)
