"""Max and average pools over one or two dimensions, global ones included.

Maxima are copies; averages are sums that the requantization divides, exactly rounded once. Windows
that cover their whole input may have any size: those of more than 255 taps along an axis are
pooled in several steps, with sums of 16 bits between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any, ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.pooling import MOST_TAPS, Span, pool
from systol_compiler.nests.vector import Copy, Operation, Requantize
from systol_compiler.numbers.arithmetic import requantize, saturate, saturating_multiplier
from systol_compiler.numbers.limits import INT16_LIMIT, Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.numbers.windows import reduce_windows
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    Operator,
    Rule,
    same_numbers,
)
from systol_compiler.quantized.spatial import (
    SPATIAL,
    ImageLayer,
    attribute,
    image_view,
    pair,
    result_view,
    to_image,
    window_ends,
    window_size,
)
from systol_hw.errors import InputError
from systol_hw.isa.choices import Reduce

_MOST_STEP = 63
"""Stride of a window in an instruction."""
_MOST_PIECES = 256
"""Windows along an axis that are nests of their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(ImageLayer):
    """Windows over each channel of [N, C, W] or [N, C, H, W].

    Attributes
    ----------
    kernel, strides, dilations
        One for each dimension.
    pads
        Before the first element of each dimension, then behind the last.
    lo, hi
        Clip of the results' codes.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    lo: int
    hi: int

    def verify(self, tensors: Tensors) -> None:
        source, target = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        rank = len(self.kernel)
        if len(source) != rank + 2 or min(*self.kernel, *self.strides, *self.dilations) < 1:
            raise InputError(
                f"layer {self.name!r}: windows of {list(self.kernel)} by {list(self.strides)}, "
                f"dilated {list(self.dilations)}, do not fit an input {source}"
            )
        size = tuple(
            window_size(
                source[axis + 2], self.kernel[axis], self.strides[axis], self.dilations[axis],
                self.pads[axis], self.pads[axis + rank],
            )
            for axis in range(rank)
        )
        if target != (*source[:2], *size) or min(self.pads) < 0:
            raise InputError(
                f"layer {self.name!r}: the output must be {(*source[:2], *size)}, with pads of at "
                f"least 0, but is {target} with {self.pads}"
            )

    def spans(self, tensors: Tensors) -> tuple[Span, Span]:
        """The windows along rows and columns."""
        source, target = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        figures = (
            pair(source[2:]), pair(target[2:]), pair(self.kernel), pair(self.strides),
            pair(self.dilations), pair(self.pads[: len(self.kernel)], 0),
        )
        rows, columns = (
            Span(size=n, outputs=outputs, kernel=taps, stride=stride, dilation=dilation, pad=pad)
            for n, outputs, taps, stride, dilation, pad in zip(*figures, strict=True)
        )
        return rows, columns

    def reduced(self, values: Array, tensors: Tensors, *, maximum: bool) -> Array:
        """Maxima or sums of the codes inside: int64 [N, rows, columns, C]."""
        return reduce_windows(
            to_image(values), pair(tensors[self.outputs[0]].shape[2:]), kernel=pair(self.kernel),
            strides=pair(self.strides), dilations=pair(self.dilations),
            pads=pair(self.pads[: len(self.kernel)], 0), maximum=maximum,
        )

    def exported_windows(self) -> dict[str, Any]:
        """Attributes of the windows. Runtimes want pads less than the kernel: what more lies
        behind, where a dilated window reaches over the end, rounding up gives as well."""
        rank = len(self.kernel)
        ends = [min(pad, taps - 1) for pad, taps in zip(self.pads[rank:], self.kernel, strict=True)]
        return {
            "kernel_shape": list(self.kernel), "strides": list(self.strides),
            "dilations": list(self.dilations), "pads": [*self.pads[:rank], *ends],
            "ceil_mode": int(tuple(ends) != self.pads[rank:]),
        }

    def in_order(self, codes: Array, tensors: Tensors) -> list[Array]:
        """Results [N, rows, columns, C] in the order of the tensor's axes."""
        return [np.moveaxis(codes, 3, 1).reshape(tensors[self.outputs[0]].shape)]


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Pool):
    """The greatest code inside each window, or the least that there is; rescaled once where input
    and output have different numbers."""

    kind: ClassVar[str] = "max_pool"

    def _factors(self, tensors: Tensors) -> tuple[int, int] | None:
        """Multiplier and shift between different numbers."""
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        if _numbers(source) == _numbers(target):
            return None
        factor = Fraction(source.scale) / Fraction(target.scale)
        return saturating_multiplier(factor)

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        most, factors = self.reduced(values[0], tensors, maximum=True), self._factors(tensors)
        if factors is None:
            codes = saturate(most, self.lo, self.hi, target.width)
        else:
            total = np.maximum(most, source.bounds[0]) - source.zero_point
            codes = requantize(
                total, np.asarray(factors[0]), np.asarray(factors[1]), target.zero_point, self.lo,
                self.hi, target.width,
            )
        return self.in_order(codes, tensors)

    def lower(self, builder: NestBuilder) -> None:
        tensors = builder.tensors
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        view, spans = image_view(builder.view(self.inputs[0])), self.spans(tensors)
        factors, copy = self._factors(tensors), Copy()
        with result_view(builder, self.outputs[0]) as out:
            if factors is None:
                pool(
                    builder, out, view, spans, lambda _: copy, even=False, rows_first=Reduce.MAX,
                    lo=self.lo, hi=self.hi,
                )
                return
            # A maximum has parameters by channel: the same for all.
            alike = np.ones(out.shape[3], np.int64)
            rescale = Requantize(
                parameters=builder.parameters(
                    -source.zero_point * alike, *(factor * alike for factor in factors)
                )
            )
            if not any(span.empty for span in spans):
                pool(
                    builder, out, view, spans, lambda _: rescale, even=False,
                    rows_first=Reduce.MAX, zero_point=target.zero_point, lo=self.lo, hi=self.hi,
                )
                return
            # Where no tap lies inside, the bias must not be added to -2**31.
            inner = builder.scratch(out.shape, (0, 1, 2, 3), source.width)
            least, greatest = source.bounds
            pool(
                builder, inner, view, spans, lambda _: copy, even=False, rows_first=Reduce.MAX,
                lo=least, hi=greatest,
            )
            builder.elementwise(
                builder.rescale(-source.zero_point, *factors), out, inner,
                zero_point=target.zero_point, lo=self.lo, hi=self.hi,
            )

    def export(self, exporter: QdqExporter) -> None:
        (value,) = exporter.node(
            "MaxPool", [exporter.real(self.inputs[0])], **self.exported_windows()
        )
        exporter.result(self.outputs[0], value, self.lo, self.hi)


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Pool):
    """Sums over windows, divided.

    Attributes
    ----------
    divisor
        By what; None: by the number of taps inside. Where none is, the result is 0.
    """

    kind: ClassVar[str] = "average_pool"

    divisor: Fraction | None

    def verify(self, tensors: Tensors) -> None:
        super().verify(tensors)
        if max(self.kernel) > MOST_TAPS:
            raise InputError(
                f"layer {self.name!r}: a window must have at most {MOST_TAPS} taps along an axis, "
                f"but has {self.kernel}"
            )

    def _factors(self, tensors: Tensors, taps: int) -> tuple[int, int]:
        """Multiplier and shift for windows with so many taps inside."""
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        divisor = self.divisor or Fraction(max(taps, 1))
        factor = Fraction(source.scale) / Fraction(target.scale) / divisor
        return saturating_multiplier(factor)

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        rows, columns = (
            np.array([high - low for low, high in span.inside]) for span in self.spans(tensors)
        )
        taps = np.multiply.outer(rows, columns)[:, :, None]
        factors = {int(count): self._factors(tensors, int(count)) for count in np.unique(taps)}
        multipliers, shifts = (
            np.vectorize(lambda count, part=part: factors[count][part], otypes=[np.int64])(taps)
            for part in (0, 1)
        )
        total = self.reduced(values[0], tensors, maximum=False) - source.zero_point * taps
        codes = requantize(
            total, multipliers, shifts, target.zero_point, self.lo, self.hi, target.width
        )
        return self.in_order(codes, tensors)

    def lower(self, builder: NestBuilder) -> None:
        source, target = (builder.tensor(name) for name in (self.inputs[0], self.outputs[0]))
        spans, most = self.spans(builder.tensors), prod(self.kernel)
        whole = all(span.whole for span in spans)
        # Without a zero point a sum needs no correction for what lies outside.
        plain = whole or (self.divisor is not None and source.zero_point == 0)
        mean = not plain and most <= builder.arch.columns and all(
            span.fits and not span.empty for span in spans
        )

        def operation(taps: int) -> Operation:
            if mean:
                return self._by_taps(builder, source)
            taps = most if plain else taps
            return builder.rescale(
                -source.zero_point * taps, *self._factors(builder.tensors, taps)
            )

        with result_view(builder, self.outputs[0]) as out:
            pool(
                builder, out, image_view(builder.view(self.inputs[0])), spans, operation,
                even=not plain and not mean, rows_first=Reduce.SUM if plain else None,
                zero_point=target.zero_point, lo=self.lo, hi=self.hi,
            )

    def _by_taps(self, builder: NestBuilder, source: QTensor) -> Operation:
        counts = np.arange(1, prod(self.kernel) + 1)
        factors = np.array([self._factors(builder.tensors, int(count)) for count in counts])
        return Requantize(
            parameters=builder.parameters(
                -source.zero_point * counts, factors[:, 0], factors[:, 1]
            ),
            reduce=Reduce.MEAN, count=len(counts),
        )

    def export(self, exporter: QdqExporter) -> None:
        (value,) = exporter.node(
            "AveragePool", [exporter.real(self.inputs[0])], **self.exported_windows(),
            count_include_pad=0 if self.divisor is None else 1,
        )
        if self.divisor not in (None, prod(self.kernel)):
            factor = prod(self.kernel) / Fraction(self.divisor or 1)
            (value,) = exporter.node(
                "Mul", [value, exporter.constant(np.array(float(factor), np.float32))]
            )
        exporter.result(self.outputs[0], value, self.lo, self.hi)


def _numbers(tensor: QTensor) -> tuple[float, int, int]:
    return tensor.scale, tensor.zero_point, tensor.width


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """Figures of a node's windows, one for each dimension; pads as ONNX has them, and whether
    an average counts them."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    counted: bool = False


def _windows(node: Node, graph: Graph) -> _Windows:
    source, result = (graph.types[name].shape[2:] for name in (node.inputs[0], node.outputs[0]))
    rank = len(source)
    if node.op.startswith("Global"):
        ones = (1,) * rank
        return _Windows(kernel=source, strides=ones, dilations=ones, pads=(0,) * (2 * rank))
    kernel = tuple(int(taps) for taps in node.attributes["kernel_shape"])
    strides, dilations = (attribute(node, name, rank) for name in ("strides", "dilations"))
    pads = list(window_ends(source, node, kernel, dilations, strides))
    counted = bool(node.attributes.get("count_include_pad", 0)) and any(pads)
    for axis in range(rank):
        # Windows that ceil_mode lets reach over the end.
        reach = (result[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        pads[rank + axis] = max(pads[rank + axis], reach - source[axis] - pads[axis])
    return _Windows(
        kernel=kernel, strides=strides, dilations=dilations, pads=tuple(pads), counted=counted
    )


def _whole_axes(windows: _Windows, sizes: Sequence[int]) -> list[bool]:
    """Where the window covers all of its input, and nothing else."""
    rank = len(sizes)
    return [
        windows.kernel[axis] == sizes[axis]
        and windows.dilations[axis] == 1
        and windows.pads[axis] == windows.pads[rank + axis] == 0
        for axis in range(rank)
    ]


def _shortened(
    builder: LayerBuilder, source: QTensor, windows: _Windows, *, maximum: bool
) -> tuple[QTensor, _Windows, Fraction]:
    """While windows have too many taps: pool steps of the axes that they cover whole.

    Gives what is left to pool, and taps of a window of it for each tap of the first.
    """
    share = Fraction(1)
    while max(windows.kernel) > MOST_TAPS:
        sizes, rank = source.shape[2:], len(windows.kernel)
        steps = tuple(
            1 if n <= MOST_TAPS else min(_MOST_STEP, -(-n // MOST_TAPS)) for n in windows.kernel
        )
        counts = tuple(-(-n // step) for n, step in zip(sizes, steps, strict=True))
        ends = tuple(count * step - n for n, step, count in zip(sizes, steps, counts, strict=True))
        inner = _inner(builder, source, counts, maximum)
        low, high = inner.bounds
        stepped = _Windows(
            kernel=steps, strides=steps, dilations=(1,) * rank, pads=((0,) * rank) + ends
        )
        divisor = Fraction(prod(steps))
        _add(builder, source, inner, stepped, (low, high), None if maximum else divisor,
             maximum=maximum, suffix="steps")
        share /= prod(steps)
        source, windows = inner, replace(
            windows,
            kernel=tuple(
                count if step > 1 else taps
                for count, step, taps in zip(counts, steps, windows.kernel, strict=True)
            ),
        )
    return source, windows, share


def _inner(
    builder: LayerBuilder, source: QTensor, sizes: tuple[int, ...], maximum: bool
) -> QTensor:
    """A tensor between two steps: of averages with 16 bits, which hold whatever the input can."""
    shape = (*source.shape[:2], *sizes)
    if maximum:
        return builder.inner(shape, source.scale, source.zero_point, source.width)
    low, high = source.bounds
    reach = max(high - source.zero_point, source.zero_point - low)
    scale = source.scale * reach / INT16_LIMIT if source.width == 8 else source.scale
    return builder.inner(shape, scale, 0, 16)


def _add(
    builder: LayerBuilder, source: QTensor, target: QTensor, windows: _Windows,
    clip: tuple[int, int], divisor: Fraction | None, *, maximum: bool, suffix: str = "",
) -> None:
    name, inputs, outputs = builder.layer_name(suffix), (source.name,), (target.name,)
    if maximum:
        builder.add(
            MaxPool(
                name=name, inputs=inputs, outputs=outputs, source_nodes=builder.current.sources,
                kernel=windows.kernel, strides=windows.strides, dilations=windows.dilations,
                pads=windows.pads, lo=clip[0], hi=clip[1],
            )
        )
        return
    builder.add(
        AveragePool(
            name=name, inputs=inputs, outputs=outputs, source_nodes=builder.current.sources,
            kernel=windows.kernel, strides=windows.strides, dilations=windows.dilations,
            pads=windows.pads, lo=clip[0], hi=clip[1], divisor=divisor,
        )
    )


def _build(node: Node, builder: LayerBuilder) -> None:
    maximum = "Max" in node.op
    source, target = builder.tensor(node.inputs[0]), builder.output()
    windows = _windows(node, builder.graph)
    taps = prod(windows.kernel)
    source, windows, share = _shortened(builder, source, windows, maximum=maximum)
    divisor = taps * share if windows.counted or share != 1 else None
    _add(builder, source, target, windows, builder.clip(target), divisor, maximum=maximum)


def values_alone(node: Node, graph: Graph) -> str | None:
    """only the values may be asked for, not their indices."""
    return "an output of indices" if len(node.outputs) > 1 and node.outputs[1] else None


def pads_counted_alike(node: Node, graph: Graph) -> str | None:
    """where pads count, no window may reach beyond them."""
    windows, sizes = _windows(node, graph), graph.types[node.inputs[0]].shape[2:]
    if not windows.counted:
        return None
    stated = window_ends(sizes, node, windows.kernel, windows.dilations, windows.strides)
    beyond = windows.pads != tuple(stated)
    return f"pads {list(stated)}, needed {list(windows.pads)}" if beyond else None


def within_fields(node: Node, graph: Graph) -> str | None:
    """a window has at most 255 taps along an axis, or covers it whole (and an average then has no
    pads along the other that do not count); strides from 64, dilations from 16 and pads from 128
    on allow at most 256 windows along the axis; an image has less than 2**20 rows and columns,
    and fewer than 2**18 bytes in as many rows as a window's dilation."""
    shape, result = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    windows, rank = _windows(node, graph), len(shape) - 2
    whole = _whole_axes(windows, shape[2:])
    long = max(windows.kernel) > MOST_TAPS
    for axis in range(rank):
        taps = windows.kernel[axis]
        span = Span(
            size=shape[2 + axis], outputs=result[2 + axis], kernel=taps,
            stride=windows.strides[axis], dilation=windows.dilations[axis], pad=windows.pads[axis],
        )
        if taps > MOST_TAPS and not whole[axis]:
            return f"kernel {list(windows.kernel)} on {list(shape)}"
        if long and "Average" in node.op and not (span.whole or windows.counted):
            return f"kernel {list(windows.kernel)} with pads {list(windows.pads)}"
        if not span.fits and span.outputs > _MOST_PIECES:
            return f"{span.outputs} windows, strides {list(windows.strides)}"
        if max(shape[2 + axis], result[2 + axis]) >= 1 << 20:
            return f"shape {list(shape)}"
    rows = max(pair(windows.dilations)[0], -(-pair(windows.strides)[0] // 8))
    columns = pair(windows.strides)[1]
    if max(rows * shape[-1], columns) * shape[1] >= 1 << 18 or shape[1] * result[-1] >= 1 << 22:
        return f"shape {list(shape)}"
    return None


_FIELDS = Rule(check=within_fields, remedy="pool in several steps")

OPERATORS = (
    Operator(
        names=("MaxPool", "GlobalMaxPool"),
        build=_build,
        rules=(
            FLOAT32,
            COMPUTED_DATA,
            SPATIAL,
            Rule(check=values_alone, remedy="compute indices on the host"),
            _FIELDS,
        ),
        wish=same_numbers,
        clips=True,
    ),
    Operator(
        names=("AveragePool", "GlobalAveragePool"),
        build=_build,
        rules=(
            FLOAT32,
            COMPUTED_DATA,
            SPATIAL,
            Rule(check=pads_counted_alike, remedy="pad before the pool"),
            _FIELDS,
        ),
        clips=True,
    ),
)
