"""Vector nests: what the vector unit does over operands in the unified buffer."""

from dataclasses import dataclass
from typing import ClassVar

from systol_compiler.nests.nest import Nest, Require
from systol_compiler.nests.operand import Box, Operand
from systol_compiler.nests.window import WHOLE, Window2D
from systol_hw.isa.choices import Function, Reduce


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The value itself (or the maximum or sum over a window), clipped."""

    reduce: Reduce = Reduce.MAX


@dataclass(frozen=True, kw_only=True)
class Requantize:
    """Scaled: `round_half_even((v + bias) * multiplier / 2**shift)`, with parameters of a constant
    buffer of 8 bytes each.

    There is one set for each channel, or with `Reduce.MEAN` there are `count`, by the number of
    taps inside; what has more taps uses the last. One set for everything is a mean with a count
    of 1.
    """

    parameters: str
    reduce: Reduce = Reduce.MAX
    count: int = 1

    @property
    def per_channel(self) -> bool:
        """Whether each channel has parameters of its own."""
        return self.reduce is not Reduce.MEAN


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The zero point, without an operand."""


@dataclass(frozen=True, kw_only=True)
class Binary:
    """Two operands, each less its zero point (docs/numerics.md, 5)."""

    function: Function
    a_zero_point: int
    b_zero_point: int
    a_multiplier: int
    b_multiplier: int
    shift: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """A function by table: 256 bytes, or 257 knots of 16 bits (`wide`)."""

    table: str
    wide: bool
    shift: int


Operation = Copy | Requantize | Fill | Binary | Table


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorNest(Nest):
    """One operation over a box of outputs.

    Attributes
    ----------
    operation
        What is done, with its own parameters.
    a
        First operand; of a `Fill` None.
    b
        Second operand of a `Binary`: of the output's extents.
    window
        Of `a`; without one `a` has the output's extents.
    zero_point, lo, hi
        Added after rounding; clip.
    """

    kind: ClassVar[str] = "vector"

    operation: Operation
    a: Operand | None
    b: Operand | None = None
    window: Window2D = WHOLE
    zero_point: int = 0
    lo: int = -128
    hi: int = 127

    @property
    def reads(self) -> tuple[Operand, ...]:
        return tuple(operand for operand in (self.a, self.b) if operand is not None)

    @property
    def constants(self) -> tuple[str, ...]:
        if isinstance(self.operation, Requantize):
            return (self.operation.parameters,)
        if isinstance(self.operation, Table):
            return (self.operation.table,)
        return ()

    @property
    def macs(self) -> int:
        return 0

    def needs(self, box: Box) -> tuple[Box, ...]:
        needed = []
        if self.a is not None:
            spans = []
            for axis, (first, end), size in (
                (0, box.lines, self.a.lines), (1, box.positions, self.a.positions)
            ):
                low, high = self.window.span(axis, first, end, size)
                low = min(max(low, 0), size - 1)
                spans.append((low, max(high, low + 1)))
            needed.append(
                Box(planes=box.planes, lines=spans[0], positions=spans[1], bytes=box.bytes)
            )
        if self.b is not None:
            needed.append(box)
        return tuple(needed)

    def verify(self) -> None:
        require = Require(self.layer)
        for operand in (self.output, *self.reads):
            require.below(operand.line_pitch * self.window.strides[0], 1 << 23,
                          "bytes between rows")
            require.below(operand.position_pitch * self.window.strides[1], 1 << 19,
                          "bytes between columns")
        if self.a is not None and self.window != WHOLE:
            require.below(self.window.dilations[0] * self.a.line_pitch, 1 << 19,
                          "bytes between the kernel's rows")
            require.below(self.window.dilations[1] * self.a.position_pitch, 1 << 19,
                          "bytes between the kernel's columns")
        for axis in (0, 1):
            require.below(self.window.kernel[axis], 256, "a window's size")
            require.below(self.window.strides[axis], 64, "a window's stride")
            require.below(self.window.dilations[axis], 16, "a window's dilation")
            require.below(self.window.pads[axis], 128, "a window's pad")
