"""MatMul of two computed tensors, as attention needs it; by a constant one as `linear` has it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.arithmetic import normalize_multiplier, requantize
from systol_compiler.numbers.limits import ACCUMULATOR_LIMIT, Array, bounds
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import FLOAT32, NO_WISH, Operator, Rule, Wish
from systol_compiler.quantized.ops.products import linear
from systol_compiler.quantized.ops.rescale import add_rescale
from systol_hw.errors import InputError, UnsupportedModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class MatMulLayer(Layer):
    """A x B by the rules of numpy's matmul: [..., M, K] x [..., K, N], batch axes broadcast.

    Either operand may have 8 or 16 bits; both have zero point 0, because a product with weights
    from the unified buffer has no place for the correction that another one asks for.

    Attributes
    ----------
    multiplier, shift
        factor * scale_a * scale_b / scale_out.
    lo, hi
        Clip of the result's codes.
    bias
        int32 for each element of the last axis, in units of `bias_scale`; or None.
    bias_scale
        scale_a * scale_b.
    factor
        Real, of sum and bias.
    fixed
        Whether a is a constant of the graph.
    """

    kind: ClassVar[str] = "matmul"

    multiplier: int
    shift: int
    lo: int
    hi: int
    bias: Array | None = None
    bias_scale: float = 1.0
    factor: float = 1.0
    fixed: bool = False

    def verify(self, tensors: Tensors) -> None:
        a, b, out = (tensors[name] for name in (*self.inputs, *self.outputs))
        for tensor in (a, b):
            if tensor.zero_point != 0:
                raise InputError(
                    f"layer {self.name!r}: operands of a product of activations must have zero "
                    f"point 0, but {tensor.name!r} has {tensor.zero_point}"
                )
        if a.shape[-1] != b.shape[-2 if len(b.shape) > 1 else 0]:
            raise InputError(f"layer {self.name!r}: shapes {a.shape} and {b.shape} do not multiply")
        shape = product_shape(a.shape, b.shape)
        if shape != out.shape:
            raise InputError(f"layer {self.name!r}: the result has shape {out.shape}, not {shape}")
        most = a.shape[-1] * a.bounds[0] * b.bounds[0]
        if self.bias is not None:
            most += int(np.abs(self.bias.astype(np.int64)).max())
        if most >= ACCUMULATOR_LIMIT:
            raise UnsupportedModelError(
                f"layer {self.name!r}: |accumulator + bias| must stay below 2**31, but {most} can "
                f"be reached over {a.shape[-1]} products of {a.width} by {b.width} bits; give one "
                "of the operands 8 bits, or reduce the bias"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        # Sums stay below 2**31, so that float64 holds them and every partial sum exactly.
        a, b = (value.astype(np.float64) for value in values)
        out = tensors[self.outputs[0]]
        sums = np.asarray(np.matmul(a, b)).astype(np.int64)
        if self.bias is not None:
            sums = sums + self.bias
        factors = np.asarray(self.multiplier), np.asarray(self.shift)
        return [requantize(sums, *factors, out.zero_point, self.lo, self.hi, out.width)]

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        a, b = (len(tensors[name].shape) for name in self.inputs)
        wish, shape = results[0], tensors[self.outputs[0]].shape
        if self._turns(a, b) and wish is not None and innermost(wish, shape) == len(shape) - 2:
            # The result transposed: the rows of B^T are the activations.
            return [None, (*range(b - 2), b - 1, b - 2)]
        return [tuple(range(a)), None]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        out, hint = tensors[self.outputs[0]], hints[0]
        rank = len(out.shape)
        natural = tuple(range(rank))
        if not self._turns(*(len(order) for order in given)):
            return [natural]
        a, b = (tensors[name] for name in self.inputs)
        wanted = None if hint is None else innermost(hint, out.shape)
        costs = {}
        for axis, activations, order in ((rank - 1, a, given[0]), (rank - 2, b, given[1])):
            along = len(order) - (1 if activations is a else 2)
            costs[axis] = 0 if innermost(order, activations.shape) in (along, None) else (
                activations.size_bytes)
            if wanted not in (axis, None):
                costs[axis] += out.size_bytes
        axis = rank - 1 if costs[rank - 1] <= costs[rank - 2] else rank - 2
        if hint is not None and wanted == axis:
            return [hint]
        outer = tuple(k for k in (hint or natural) if k not in (rank - 1, rank - 2))
        return [(*outer, *((rank - 2, rank - 1) if axis == rank - 1 else (rank - 1, rank - 2)))]

    def _turns(self, *ranks: int) -> bool:
        """Whether the result can be written transposed: a bias belongs to the columns."""
        return min(ranks) > 1 and self.bias is None

    def lower(self, builder: NestBuilder) -> None:
        a, b = (builder.view(name) for name in self.inputs)
        out = builder.place(self.outputs[0])
        turns = self._turns(len(a.shape), len(b.shape))
        if len(b.shape) == 1:
            # A vector behind is one row of activations, and the matrix before it the weights.
            a, b = _with_axis(b, 0), _swapped(a if len(a.shape) > 1 else _with_axis(a, 0))
            out = out if out.shape else _with_axis(out, 0)
            out = _with_axis(out, len(out.shape) - 1)
        elif len(a.shape) == 1:
            a, out = _with_axis(a, 0), _with_axis(out, len(out.shape) - 1)
        target = out
        if not _along(out, -1) and not (turns and _along(out, -2)):
            target = builder.scratch(out.shape, tuple(range(len(out.shape))), 8 * out.planes)
        if turns and (not _along(target, -1) or (_along(target, -2) and not _along(a, -1))):
            # C = A B is C^T = B^T A^T: rows of B^T are then the activations.
            self._product(builder, _swapped(b), _swapped(a), _swapped(target))
        else:
            self._product(builder, a, b, target)
        if target is not out:
            builder.elementwise(Copy(), out, target)

    def _product(self, builder: NestBuilder, a: View, b: View, out: View) -> None:
        """[..., P, K] x [..., K, F] -> [..., P, F], F contiguous."""
        if not _along(a, -1):
            a = builder.packed(a, _memory_order(a, len(a.shape) - 1))
        if not any(_along(b, i) and b.strides[k] >= 0 for i, k in ((-1, -2), (-2, -1))):
            b = builder.packed(b, tuple(range(len(b.shape))))
        a, b = (view.expand((*out.shape[:-2], *view.shape[-2:])) for view in (a, b))
        planes, (rows, pitch_a, _, pitch_out) = _loops(a, b, out)
        offsets = [
            tuple(
                view.offset + sum(i * steps[place] for i, (_, *steps) in zip(
                    index, planes, strict=True))
                for index in np.ndindex(*(size for size, *_ in planes))
            )
            for place, view in enumerate((a, b, out))
        ]
        if len(set(offsets[1])) == 1:
            offsets[1] = offsets[1][:1]
        reduction, outputs = a.shape[-1], out.shape[-1]
        transpose = not (_along(b, -1) and b.strides[-2] >= 0)
        stored = _swapped(b) if transpose else b
        full = np.ones(outputs, np.int64)
        bias = 0 * full if self.bias is None else self.bias
        builder.add(
            MatrixNest(
                name=builder.fresh(builder.layer), layer=builder.layer,
                source_nodes=builder.sources,
                input=_rows(a, offsets[0], rows, pitch_a, reduction),
                output=_rows(out, offsets[2], rows, pitch_out, outputs),
                outputs=outputs, size=(rows, 1), step_bytes=reduction,
                weights=ActivationWeights(
                    operand=_rows(
                        stored, offsets[1], stored.shape[-2], stored.strides[-2], stored.shape[-1]
                    ),
                    transpose=transpose,
                ),
                tile_outputs=builder.arch.columns,
                parameters=builder.parameters(bias, self.multiplier * full, self.shift * full),
                zp_in=0, zp_out=builder.tensor(self.outputs[0]).zero_point,
                lo=self.lo, hi=self.hi,
            )
        )

    def export(self, exporter: QdqExporter) -> None:
        operands = [exporter.real(name) for name in self.inputs]
        value = exporter.node("MatMul", operands)[0]
        if self.bias is not None:
            scale = np.float64(self.bias_scale)
            value = exporter.node("Add", [value, exporter.constant(
                (self.bias * scale).astype(np.float32))])[0]
        if self.factor != 1:
            factor = exporter.constant(np.array(self.factor, np.float32))
            value = exporter.node("Mul", [value, factor])[0]
        exporter.result(self.outputs[0], value, self.lo, self.hi)

    def batched(self, tensors: Tensors) -> bool:
        a, b, out = (tensors[name].shape for name in (*self.inputs, *self.outputs))
        own = [b] if self.fixed else [a, b]
        alone = not self.fixed or len(a) < len(out) or a[0] == 1
        return alone and all(len(x) == len(out) > 2 and x[0] == out[0] for x in own)


def add_matmul(
    builder: LayerBuilder, a: QTensor, b: QTensor, out: QTensor, *,
    clip: tuple[int, int] | None = None, bias: Array | None = None, factor: float = 1.0,
) -> None:
    """Add the layer out = factor * (a x b + bias), bias real [N]; operands are made symmetric where
    they are not, and narrow where a sum could overflow."""
    a, b = (symmetric(builder, tensor) for tensor in (a, b))
    if a.shape[-1] > largest_reduction(a.width, b.width):
        b = symmetric(builder, b, width=8)
    if a.shape[-1] > largest_reduction(a.width, b.width):
        a = symmetric(builder, a, width=8)
    scale = Fraction(a.scale) * Fraction(b.scale)
    name = builder.layer_name()
    real = Fraction(factor) * scale / Fraction(out.scale)
    multiplier, shift = normalize_multiplier(real, f"layer {name!r}")
    lo, hi = clip or out.bounds
    codes = None
    if bias is not None:
        codes = np.rint(bias.astype(np.float64) / float(scale))
        codes = np.clip(codes, 1 - ACCUMULATOR_LIMIT, ACCUMULATOR_LIMIT - 1).astype(np.int32)
    builder.add(
        MatMulLayer(
            name=name, inputs=(a.name, b.name), outputs=(out.name,),
            source_nodes=builder.current.sources, multiplier=multiplier, shift=shift, lo=lo, hi=hi,
            bias=codes, bias_scale=float(scale), factor=factor,
            fixed=a.name in builder.constants,
        )
    )


def symmetric(builder: LayerBuilder, source: QTensor, width: int | None = None) -> QTensor:
    """`source` itself if its zero point is 0 (and its width `width`), else what a new layer
    rescales it to."""
    width = width or source.width
    if source.zero_point == 0 and source.width == width:
        return source
    reach = max(abs(bound - source.zero_point) for bound in source.bounds)
    inner = builder.inner(source.shape, source.scale * reach / bounds(width)[1], 0, width)
    add_rescale(builder, source, inner, suffix="symmetric")
    return inner


def product_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of numpy's matmul of tensors of these shapes."""
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return (*batch, *(a[-2:-1]), *(b[-1:] if len(b) > 1 else ()))


def largest_reduction(*widths: int) -> int:
    """The most products of operands of these widths that a 32-bit accumulator surely holds."""
    return (ACCUMULATOR_LIMIT - 1) // prod(-bounds(width)[0] for width in widths)


def innermost(order: Order, shape: Sequence[int]) -> int | None:
    """The last axis of `order` with more than one element."""
    return next((axis for axis in reversed(order) if shape[axis] > 1), None)


def _along(view: View, axis: int) -> bool:
    """Whether the elements along `axis` lie side by side."""
    return view.shape[axis] == 1 or view.strides[axis] == 1


def _swapped(view: View) -> View:
    rank = len(view.shape)
    return view.transpose((*range(rank - 2), rank - 1, rank - 2))


def _with_axis(view: View, place: int) -> View:
    """`view` with an axis of one element before axis `place`."""
    return replace(
        view,
        shape=(*view.shape[:place], 1, *view.shape[place:]),
        strides=(*view.strides[:place], 0, *view.strides[place:]),
    )


def _memory_order(view: View, last: int) -> Order:
    """The axes from the greatest stride to the least, `last` innermost."""
    return tuple(sorted(range(len(view.shape)), key=lambda k: (k == last, -abs(view.strides[k]))))


def _loops(
    a: View, b: View, out: View
) -> tuple[list[tuple[int, int, int, int]], tuple[int, int, int, int]]:
    """Loops over matrices, and over the rows of one: extents, and strides in the three views.

    Matrices that meet the same weights and lie behind each other are one matrix.
    """
    rows = (out.shape[-2], a.strides[-2], 0, out.strides[-2])
    batch = [
        loop for loop in zip(out.shape, a.strides, b.strides, out.strides, strict=True)
    ][:-2]
    planes = [loop for loop in batch if loop[0] != 1]
    while planes and planes[-1][1:] == (rows[0] * rows[1], 0, rows[0] * rows[3]):
        rows = (planes.pop()[0] * rows[0], *rows[1:])
    return planes, rows


def _rows(view: View, planes: tuple[int, ...], lines: int, pitch: int, width: int) -> Operand:
    return Operand(
        buffer=view.buffer, planes=planes, lines=lines, positions=1, width=width,
        line_pitch=pitch, position_pitch=width, byte_planes=view.planes,
    )


def _constant(node: Node, graph: Graph) -> int | None:
    """Which operand is constant, if one is."""
    return next((i for i, name in enumerate(node.inputs) if name in graph.constants), None)


def operands(node: Node, graph: Graph) -> str | None:
    """a constant operand must have two or more dimensions, as the other one, and finite values; and
    not both can be constant"""
    place = _constant(node, graph)
    if place is None:
        return None
    if all(name in graph.constants for name in node.inputs):
        return "both are constant"
    for name in node.inputs:
        if len(graph.types[name].shape) < 2:
            return f"{name!r} of shape {graph.types[name].shape}"
    name = node.inputs[place]
    finite = bool(np.isfinite(graph.constants[name]).all())
    return None if finite else f"{name!r} is not finite"


def _wish(node: Node, graph: Graph) -> Wish:
    """Zero points of 0 for operands that meet as activations and weights."""
    if _constant(node, graph) == 1:
        return NO_WISH
    return Wish(symmetric=tuple(
        dict.fromkeys(name for name in node.inputs if name not in graph.constants)
    ))


def _build(node: Node, builder: LayerBuilder) -> None:
    place = _constant(node, builder.graph)
    if place == 1:
        linear.build_matmul(node, builder)
        return
    a, b = (
        builder.constant(name, builder.graph.constants[name], symmetric=True)
        if name in builder.graph.constants else builder.tensor(name)
        for name in node.inputs
    )
    out = builder.output()
    bias = builder.current.bias
    add_matmul(
        builder, a, b, out, clip=builder.clip(out),
        bias=builder.graph.constants[bias].reshape(-1) if bias else None,
        factor=builder.current.factor,
    )


OPERATORS = (
    Operator(
        names=("MatMul",), build=_build, wish=_wish, clips=True, biases=True, scales=True,
        rules=(
            FLOAT32,
            Rule(check=operands, remedy="reshape the operand to a matrix, or clean the constant"),
            linear.SHORT_ROWS,
        ),
    ),
)
