"""Windows of any size over views, as nests that the instruction's fields can hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from systol_compiler.nests.building.builder import NestBuilder, natural
from systol_compiler.nests.operand import image_operand
from systol_compiler.nests.vector import Copy, Operation
from systol_compiler.nests.view import View
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.limits import bounds
from systol_compiler.numbers.windows import taps_inside
from systol_hw.arch import Arch
from systol_hw.isa.choices import Reduce

MOST_TAPS = 255
_STRIDES = 64
_DILATIONS = 16
_PADS = 128
_LONG = 1 << 15
"""Elements along an axis that one piece may see: counts are fields of 16 bits."""
_PITCH = 1 << 19
"""Bytes between taps and between columns; between rows sixteen times as many."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Windows along one axis.

    Attributes
    ----------
    size, outputs
        Of the input and of the result.
    kernel, stride, dilation
        Of the windows, in elements.
    pad
        Elements before the input at which the first window begins.
    """

    size: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    pad: int

    @property
    def inside(self) -> list[tuple[int, int]]:
        """Range of the taps inside, by window."""
        return taps_inside(
            self.size, self.outputs, self.kernel, self.stride, self.dilation, self.pad
        )

    @property
    def whole(self) -> bool:
        """Whether no window reaches over an edge."""
        return all(taps == (0, self.kernel) for taps in self.inside)

    @property
    def empty(self) -> bool:
        """Whether some window has no tap inside."""
        return any(first == last for first, last in self.inside)

    @property
    def fits(self) -> bool:
        """Whether an instruction can step over all windows."""
        stride = 1 if self.outputs == 1 else self.stride
        dilation = 1 if self.kernel == 1 else self.dilation
        return stride < _STRIDES and dilation < _DILATIONS and self.pad < _PADS


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Windows side by side along one axis.

    Attributes
    ----------
    first, count
        Outputs `first .. first + count - 1`.
    origin, step, size
        Input elements that they see: `size` ones from `origin` on, `step` apart.
    kernel, stride, dilation, pad
        Of the windows, in these elements.
    taps
        Taps inside each; 0 where that differs, or where none is.
    """

    first: int
    count: int
    origin: int
    step: int = 1
    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    pad: int = 0
    taps: int


def pieces(span: Span, *, even: bool) -> Iterator[Piece]:
    """The windows of a span in as few pieces as can be; `even`: with equally many taps inside."""
    if span.fits and (not even or span.whole):
        if span.size >= _LONG:
            yield from _stretches(span)
            return
        yield Piece(
            first=0, count=span.outputs, origin=0, size=span.size, kernel=span.kernel,
            stride=1 if span.outputs == 1 else span.stride,
            dilation=1 if span.kernel == 1 else span.dilation,
            pad=span.pad, taps=span.kernel if span.whole else 0,
        )
        return
    inside, first = span.inside, 0
    while first < span.outputs:
        low, high = inside[first]
        if low == high:
            # One tap, and that before the input.
            yield Piece(first=first, count=1, origin=0, size=1, kernel=1, pad=1, taps=0)
            first += 1
            continue
        taps, coarse = high - low, high - low > 1 and span.dilation >= _DILATIONS
        count = 1
        while (
            not coarse and span.stride < _STRIDES and first + count < span.outputs
            and inside[first + count] == (low, high)
            and count * span.stride + taps * span.dilation < _LONG
        ):
            count += 1
        stride = span.stride if count > 1 else 1
        dilation = span.dilation if taps > 1 and not coarse else 1
        yield Piece(
            first=first, count=count,
            origin=first * span.stride - span.pad + low * span.dilation,
            step=span.dilation if coarse else 1,
            size=(count - 1) * stride + (taps - 1) * dilation + 1,
            kernel=taps, stride=stride, dilation=dilation, taps=taps,
        )
        first += count


def _stretches(span: Span) -> Iterator[Piece]:
    """The windows of a long axis in pieces that see no more elements than a field can count."""
    reach = (span.kernel - 1) * span.dilation + 1
    most = (_LONG - reach) // span.stride
    taps = span.kernel if span.whole else 0
    for first in range(0, span.outputs, most):
        count = min(most, span.outputs - first)
        start = first * span.stride - span.pad
        origin = min(max(start, 0), span.size - 1)
        end = min(start + (count - 1) * span.stride + reach, span.size)
        if start > origin:
            # Behind the input: windows without a tap, one by one.
            for output in range(first, first + count):
                yield Piece(first=output, count=1, origin=0, size=1, kernel=1, pad=1, taps=0)
            continue
        yield Piece(
            first=first, count=count, origin=origin, size=max(end - origin, 1),
            kernel=span.kernel, stride=span.stride, dilation=span.dilation,
            pad=origin - start, taps=taps,
        )


def pool(
    builder: NestBuilder,
    out: View,
    source: View,
    spans: tuple[Span, Span],
    operation: Callable[[int], Operation],
    *,
    even: bool,
    rows_first: Reduce | None = None,
    zero_point: int = 0,
    lo: int,
    hi: int,
) -> None:
    """Nests of windows over [N, H, W, C] views.

    `operation` gives what is done where so many taps lie inside (0: where that differs, or where
    none does). `even` asks for pieces in which it is the same number. With `rows_first` the
    windows' columns may be reduced to one row before, where that is cheaper: to their maximum, or
    to their sum in 16 bits, which up to 254 bytes fit.
    """
    if not _fits(source, spans):
        source = builder.packed(source, natural(4))
    if rows_first is not None and not even and _pays(builder.arch, out, source, spans, rows_first):
        width = 16 if rows_first is Reduce.SUM else 8 * source.planes
        shape = (out.shape[0], out.shape[1], *source.shape[2:])
        inner = builder.scratch(shape, natural(4), width)
        one = Span(size=source.shape[2], outputs=source.shape[2], kernel=1, stride=1, dilation=1,
                   pad=0)
        low, high = bounds(width)
        copy = Copy(reduce=rows_first)
        pool(builder, inner, source, (spans[0], one), lambda _: copy, even=False, lo=low, hi=high)
        rows = Span(size=out.shape[1], outputs=out.shape[1], kernel=1, stride=1, dilation=1, pad=0)
        source, spans = inner, (rows, spans[1])
    for across in pieces(spans[0], even=even):
        for along in pieces(spans[1], even=even):
            target = out.slice(1, across.first, across.count).slice(2, along.first, along.count)
            taken = source.slice(1, across.origin, across.size, across.step)
            taken = taken.slice(2, along.origin, along.size, along.step)
            builder.windowed(
                operation(across.taps * along.taps), target, taken,
                Window2D(
                    kernel=(across.kernel, along.kernel), strides=(across.stride, along.stride),
                    dilations=(across.dilation, along.dilation), pads=(across.pad, along.pad),
                ),
                zero_point=zero_point, lo=lo, hi=hi,
            )


def _fits(source: View, spans: tuple[Span, Span]) -> bool:
    """Whether channels are contiguous, and lines and positions no further apart than the
    instruction's fields can say."""
    if image_operand(source) is None:
        return False
    pitches = [abs(stride) for stride in source.strides[1:3]]
    return all(
        pitch * min(span.dilation, _DILATIONS) < _PITCH
        and pitch * min(span.stride, _STRIDES) < _PITCH * (16 if axis == 0 else 1)
        for axis, (pitch, span) in enumerate(zip(pitches, spans, strict=True))
    )


def _pays(
    arch: Arch, out: View, source: View, spans: tuple[Span, Span], reduce: Reduce
) -> bool:
    """Whether windows are pooled along one axis after the other: where that takes half the
    cycles, or where a window's bytes would fill much of the unified buffer."""
    kernel = (spans[0].kernel, spans[1].kernel)
    if min(kernel) == 1 or (reduce is Reduce.SUM and (source.planes > 1 or kernel[0] > 254)):
        return False
    once = out.shape[2] * kernel[0] * kernel[1] * source.planes
    planes = 2 if reduce is Reduce.SUM else source.planes
    twice = source.shape[2] * kernel[0] * source.planes + out.shape[2] * kernel[1] * planes
    large = 8 * kernel[0] * kernel[1] * arch.columns * source.planes > arch.ub_bytes
    return 2 * twice <= once or large
