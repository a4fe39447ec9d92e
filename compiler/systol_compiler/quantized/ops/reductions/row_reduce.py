"""Reductions over any axes: sums by the matrix unit, maxima and minima by the vector unit.

A *row* is an element of all reduced axes together, a *channel* one of the axes that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import ClassVar

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.operand import Loop, Operand, common_loops
from systol_compiler.nests.vector import Binary, Copy
from systol_compiler.nests.view import View
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.arithmetic import normalize_multiplier, requantize
from systol_compiler.numbers.limits import ACCUMULATOR_LIMIT, Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_hw.errors import InputError, UnsupportedModelError
from systol_hw.isa.choices import Function, Reduce

_MOST_TAPS = 255
"""Taps of a window along one axis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowReduction(Layer):
    """What sums and extrema share.

    The result has the source's axes, those of `axes` with one element, or without those.
    """

    axes: tuple[int, ...]
    keepdims: bool

    def verify(self, tensors: Tensors) -> None:
        source, out = tensors[self.inputs[0]], tensors[self.outputs[0]]
        kept = reduced_shape(source.shape, self.axes, self.keepdims)
        if out.shape != kept:
            raise InputError(
                f"layer {self.name!r}: axes {self.axes} of {source.shape} reduce to {kept}, but "
                f"the result has shape {out.shape}"
            )

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        if self.keepdims:
            return [given[0]]
        left = [axis for axis in range(len(given[0])) if axis not in self.axes]
        return [tuple(left.index(axis) for axis in given[0] if axis not in self.axes)]

    def batched(self, tensors: Tensors) -> bool:
        return 0 not in self.axes and super().batched(tensors)

    def _export(self, exporter: QdqExporter, op: str, value: str, *more: tuple[str, float]) -> None:
        """Write `op` over the axes, then operators with one constant each."""
        axes = exporter.constant(np.array(self.axes, np.int64))
        (result,) = exporter.node(op, [value, axes], keepdims=int(self.keepdims))
        for name, operand in more:
            (result,) = exporter.node(
                name, [result, exporter.constant(np.array(operand, np.float32))]
            )
        exporter.result(self.outputs[0], result)

    def _views(self, builder: NestBuilder) -> tuple[View, View]:
        """The source, and the place of the result with all of the source's axes."""
        source, out = builder.view(self.inputs[0]), builder.place(self.outputs[0])
        if not self.keepdims:
            shape, strides = list(out.shape), list(out.strides)
            for axis in sorted(self.axes):
                shape.insert(axis, 1)
                strides.insert(axis, 0)
            out = replace(out, shape=tuple(shape), strides=tuple(strides))
        return source, out

    def _order(self, view: View) -> Order:
        return channels_inside(view.shape, self.axes)

    def _kept_loops(self, out: View, source: View) -> list[Loop]:
        """Loops over the channels: extents, and strides in the result and in the source."""
        for axis in self.axes:
            source = source.slice(axis, 0, 1)
        return common_loops([out, source])


@dataclass(frozen=True, kw_only=True, eq=False)
class RowExtremum(RowReduction):
    """The maximum or minimum over `axes`; source and result have the same numbers."""

    kind: ClassVar[str] = "extremum"

    maximum: bool

    def verify(self, tensors: Tensors) -> None:
        super().verify(tensors)
        source, out = tensors[self.inputs[0]], tensors[self.outputs[0]]
        same = ("scale", "zero_point", "width")
        if any(getattr(source, key) != getattr(out, key) for key in same):
            raise InputError(
                f"layer {self.name!r}: a maximum keeps scale and zero point, but {source} "
                f"becomes {out}"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        reduce = np.max if self.maximum else np.min
        result = np.asarray(reduce(values[0], axis=self.axes))
        return [result.reshape(tensors[self.outputs[0]].shape)]

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [channels_inside(tensors[self.inputs[0]].shape, self.axes)]

    def lower(self, builder: NestBuilder) -> None:
        source, out = self._views(builder)
        if source.size == out.size:
            builder.elementwise(Copy(), out, source)
            return
        loops = self._kept_loops(out, source)
        if not loops or loops[-1][1] != (1, 1):
            source = builder.packed(source, self._order(source))
            loops = self._kept_loops(out, source)
        target = out
        if loops and loops[-1][1] != (1, 1):
            target = builder.scratch(out.shape, self._order(out), 8 * out.planes)
            loops = self._kept_loops(target, source)
        source = self._halved(builder, source)
        if source.size > out.size:
            self._window(builder, target, source)
        elif target is not source:
            builder.elementwise(Copy(), target, source)
        if target is not out:
            builder.elementwise(Copy(), out, target)

    def _halved(self, builder: NestBuilder, view: View) -> View:
        """Rows met by those of the other half until one window holds the rest: for a maximum as
        many as a window has taps, for a minimum one."""
        function = Function.MAX if self.maximum else Function.MIN
        same = Binary(
            function=function, a_zero_point=0, b_zero_point=0, a_multiplier=1, b_multiplier=1,
            shift=0,
        )
        while True:
            sizes = [(view.shape[axis], axis) for axis in self.axes]
            rows = _row_loops(view, self.axes)
            fits = len(rows) <= 2 and all(size <= _MOST_TAPS for size, _ in rows)
            if max(sizes)[0] == 1 or (self.maximum and fits):
                return view
            size, axis = max(sizes)
            half = -(-size // 2)
            shape = (*view.shape[:axis], half, *view.shape[axis + 1 :])
            out = builder.scratch(shape, self._order(view), 8 * view.planes)
            builder.elementwise(
                same, out, view.slice(axis, 0, half), view.slice(axis, size - half, half)
            )
            view = out

    def _window(self, builder: NestBuilder, out: View, source: View) -> None:
        rows = _row_loops(source, self.axes)
        rows = [(1, 0)] * (2 - len(rows)) + rows
        loops = self._kept_loops(out, source)
        channels: Loop = loops.pop() if loops else (1, (1, 1))
        assert channels[1] == (1, 1), (out, source)
        kernel = (rows[0][0], rows[1][0])
        images = loops.pop() if loops else (1, (0, 0))
        for places in zip(*starts(loops, (out.offset, source.offset)), strict=True):
            builder.windowed(
                Copy(reduce=Reduce.MAX),
                replace(
                    out, offset=places[0], shape=(images[0], 1, 1, channels[0]),
                    strides=(images[1][0], 0, 0, 1),
                ),
                replace(
                    source, offset=places[1], shape=(images[0], *kernel, channels[0]),
                    strides=(images[1][1], rows[0][1], rows[1][1], 1),
                ),
                Window2D(kernel=kernel),
            )

    def export(self, exporter: QdqExporter) -> None:
        op = "ReduceMax" if self.maximum else "ReduceMin"
        self._export(exporter, op, exporter.real(self.inputs[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSum(RowReduction):
    """`round_half_even((sum(q) + bias) * multiplier / 2**shift)` + zero point, over `axes`.

    The sum itself is exact: 32 bits.

    Attributes
    ----------
    factor, offset
        The result stands for factor * sum - offset, in real numbers.
    bias, multiplier, shift
        What that is in codes.
    """

    kind: ClassVar[str] = "sum"

    factor: float
    offset: float
    bias: int
    multiplier: int
    shift: int

    def verify(self, tensors: Tensors) -> None:
        super().verify(tensors)
        source = tensors[self.inputs[0]]
        rows = prod(source.shape[axis] for axis in self.axes)
        most = rows * -source.bounds[0] + abs(self.bias)
        if most >= ACCUMULATOR_LIMIT:
            raise UnsupportedModelError(
                f"layer {self.name!r}: |sum + bias| must stay below 2**31, but over {rows} "
                f"elements it can reach {most}; reduce over fewer axes at a time"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        out = tensors[self.outputs[0]]
        total = values[0].sum(axis=self.axes, dtype=np.int64) + self.bias
        factors = np.asarray(self.multiplier), np.asarray(self.shift)
        codes = requantize(total, *factors, out.zero_point, *out.bounds, out.width)
        return [codes.reshape(out.shape)]

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [None]

    def lower(self, builder: NestBuilder) -> None:
        source, out = self._views(builder)
        loops = self._kept_loops(out, source)
        channels = loops.pop() if loops else (1, (1, 1))
        weights = _row_weights(source, self.axes, channels)
        if channels[1][0] != 1 or weights is None:
            order = self._order(source)
            source = builder.packed(source, order)
            # In a place whose axes lie in another order rows do not meet: copied there then.
            for target in (out, builder.scratch(out.shape, order, 8 * out.planes)):
                loops = self._kept_loops(target, source)
                channels = loops.pop() if loops else (1, (1, 1))
                weights = _row_weights(source, self.axes, channels)
                if weights is not None and channels[1][0] == 1:
                    break
            assert weights is not None and channels[1][0] == 1, (target, source)
            self._sums(builder, target, source, loops, weights)
            if target is not out:
                builder.elementwise(Copy(), out, target)
        else:
            self._sums(builder, out, source, loops, weights)

    def _sums(
        self, builder: NestBuilder, out: View, source: View, loops: list[Loop],
        weights: ActivationWeights,
    ) -> None:
        """One row of ones times rows by channels, for each turn of `loops`."""
        rows = prod(source.shape[axis] for axis in self.axes)
        count = weights.operand.lines if weights.transpose else weights.operand.width
        places = starts(loops, (out.offset, source.offset))
        ones = builder.constant("ones", np.ones(rows, np.uint8))
        tensor, full = builder.tensor(self.outputs[0]), np.ones(count, np.int64)
        lo, hi = tensor.bounds
        builder.add(
            MatrixNest(
                name=builder.fresh(builder.layer), layer=builder.layer,
                source_nodes=builder.sources,
                input=Operand(
                    buffer=ones, planes=(0,) * len(places[0]), lines=1, positions=1, width=rows,
                    line_pitch=rows, position_pitch=rows,
                ),
                output=Operand(
                    buffer=out.buffer, planes=places[0], lines=1, positions=1, width=count,
                    line_pitch=count, position_pitch=count, byte_planes=out.planes,
                ),
                outputs=count, size=(1, 1), step_bytes=rows,
                weights=replace(weights, operand=replace(weights.operand, planes=places[1])),
                tile_outputs=builder.arch.columns,
                parameters=builder.parameters(
                    self.bias * full, self.multiplier * full, self.shift * full
                ),
                zp_in=0, zp_out=tensor.zero_point, lo=lo, hi=hi,
            )
        )

    def export(self, exporter: QdqExporter) -> None:
        self._export(
            exporter, "ReduceSum", exporter.real(self.inputs[0]), ("Mul", self.factor),
            ("Sub", self.offset),
        )


def add_sum(
    builder: LayerBuilder, source: QTensor, out: QTensor, axes: tuple[int, ...], *,
    keepdims: bool = True, factor: Fraction | float = 1, offset: float = 0.0, suffix: str = "sum",
) -> None:
    """Add the layer out = factor * sum(source over axes) - offset."""
    real = Fraction(source.scale) * Fraction(factor)
    rows = prod(source.shape[axis] for axis in axes)
    multiplier, shift = normalize_multiplier(
        real / Fraction(out.scale), f"{builder.current.node.place}"
    )
    bias = -rows * source.zero_point - round(Fraction(offset) / real)
    builder.add(
        RowSum(
            name=builder.layer_name(suffix), inputs=(source.name,), outputs=(out.name,),
            source_nodes=builder.current.sources, axes=axes, keepdims=keepdims,
            factor=float(factor), offset=offset, bias=bias, multiplier=multiplier, shift=shift,
        )
    )


def add_extremum(
    builder: LayerBuilder, source: QTensor, out: QTensor, axes: tuple[int, ...], *,
    maximum: bool = True, keepdims: bool = True, suffix: str = "max",
) -> None:
    """Add the layer out = maximum (or minimum) of source over axes."""
    builder.add(
        RowExtremum(
            name=builder.layer_name(suffix), inputs=(source.name,), outputs=(out.name,),
            source_nodes=builder.current.sources, axes=axes, keepdims=keepdims, maximum=maximum,
        )
    )


def reduced_shape(
    shape: tuple[int, ...], axes: Sequence[int], keepdims: bool = True
) -> tuple[int, ...]:
    """`shape` after a reduction."""
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def channels_inside(shape: tuple[int, ...], axes: Sequence[int]) -> Order:
    """Memory order with the axes that are kept innermost; but the first, if kept, outermost, where
    others give channels."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    channels = prod(shape[axis] for axis in kept if axis > 0)
    first = kept[:1] if kept[:1] == [0] and channels > 1 else []
    return (*first, *sorted(axes), *kept[len(first) :])


def starts(loops: Sequence[Loop], offsets: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """For each of several views, where the turns of `loops` begin."""
    result = []
    for place, offset in enumerate(offsets):
        begins = [offset]
        for size, strides in loops:
            begins = [begin + i * strides[place] for begin in begins for i in range(size)]
        result.append(tuple(begins))
    return tuple(result)


def _row_loops(view: View, axes: Sequence[int]) -> list[tuple[int, int]]:
    """The loops over a view's rows: extents and strides, outermost first."""
    only = replace(
        view, shape=tuple(view.shape[axis] for axis in axes),
        strides=tuple(view.strides[axis] for axis in axes),
    )
    return [(size, strides[0]) for size, strides in common_loops([only])]


def _row_weights(
    view: View, axes: Sequence[int], channels: Loop
) -> ActivationWeights | None:
    """Rows by channels as weights, if they lie so that the machine can read them: either
    channels or rows contiguous, and one step from line to line."""
    rows = _row_loops(view, axes)
    if len(rows) > 1:
        return None
    count, step = rows[0] if rows else (1, 0)
    size, stride = channels[0], channels[1][1]
    for lines, pitch, width, along, transpose in (
        (count, step, size, stride, False), (size, stride, count, step, True),
    ):
        if (width == 1 or along == 1) and (lines == 1 or pitch >= 0):
            operand = Operand(
                buffer=view.buffer, planes=(view.offset,), lines=lines, positions=1, width=width,
                line_pitch=max(pitch, 0), position_pitch=width, byte_planes=view.planes,
            )
            return ActivationWeights(operand=operand, transpose=transpose)
    return None
