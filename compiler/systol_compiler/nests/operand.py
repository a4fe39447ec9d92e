"""Operands: what a nest reads or writes, as planes of lines of positions of contiguous bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from systol_compiler.nests.view import View
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import form_of

Range = tuple[int, int]
"""Half-open."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Half-open ranges of an operand's (or a nest's) planes, lines, positions and bytes."""

    positional: ClassVar[bool] = True
    """In text the four ranges are enough."""

    planes: Range
    lines: Range
    positions: Range
    bytes: Range

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Extents in the four directions."""
        planes, lines, positions, width = (high - low for low, high in self.ranges)
        return planes, lines, positions, width

    @property
    def ranges(self) -> tuple[Range, Range, Range, Range]:
        """The four ranges, outermost first."""
        return self.planes, self.lines, self.positions, self.bytes

    @property
    def size(self) -> int:
        """Number of bytes (of elements, for a nest)."""
        return prod(self.sizes)

    def __str__(self) -> str:
        return "x".join(f"{low}..{high - 1}" for low, high in self.ranges)


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Bytes of a buffer: byte b of position x of line y of plane p lies at
    `planes[p] + y * line_pitch + x * position_pitch + b`.

    Attributes
    ----------
    planes
        Offset in the buffer of each plane's first byte.
    lines, positions, width
        Extents; `width` contiguous bytes (elements) at each position.
    line_pitch, position_pitch
        In bytes; 0 repeats, as a broadcast does.
    byte_planes
        1, or 2 for values of 16 bits: the high bytes lie a plane of the buffer further.
    """

    buffer: str
    planes: tuple[int, ...]
    lines: int
    positions: int
    width: int
    line_pitch: int
    position_pitch: int
    byte_planes: int = 1

    @property
    def box(self) -> Box:
        """All of it."""
        return Box(
            planes=(0, len(self.planes)),
            lines=(0, self.lines),
            positions=(0, self.positions),
            bytes=(0, self.width),
        )

    @property
    def plane_step(self) -> int | None:
        """Bytes from plane to plane, if that is the same for all."""
        if len(self.planes) < 2:
            return 0
        step = self.planes[1] - self.planes[0]
        regular = all(b - a == step for a, b in zip(self.planes, self.planes[1:], strict=False))
        return step if regular else None

    def address(self, plane: int, line: int, position: int, byte: int = 0) -> int:
        """Offset in the buffer of a byte, which may lie outside."""
        return (
            self.planes[plane] + line * self.line_pitch + position * self.position_pitch + byte
        )

    def span(self, box: Box) -> Range:
        """Half-open range of offsets in the (low plane of the) buffer that `box` lies in."""
        lows, highs = [], []
        for plane in range(*box.planes):
            corners = [
                self.address(plane, line, position)
                for line in (box.lines[0], box.lines[1] - 1)
                for position in (box.positions[0], box.positions[1] - 1)
            ]
            lows.append(min(corners) + box.bytes[0])
            highs.append(max(corners) + box.bytes[1])
        return min(lows), max(highs)

    def __str__(self) -> str:
        return form_of(Operand).show(self, Printer())


def image_operand(view: View) -> Operand | None:
    """A [N, H, W, C] view as planes of lines, if channels are contiguous; else None."""
    images, height, width, channels = view.shape
    if channels != 1 and view.strides[3] != 1:
        return None
    return Operand(
        buffer=view.buffer,
        planes=tuple(view.offset + n * view.strides[0] for n in range(images)),
        lines=height,
        positions=width,
        width=channels,
        line_pitch=view.strides[1],
        position_pitch=view.strides[2],
        byte_planes=view.planes,
    )


Loop = tuple[int, tuple[int, ...]]
"""Extent, and stride in each of several views."""


def common_loops(views: Sequence[View], *, merge: bool = True) -> list[Loop]:
    """The loops over elements of views of one shape, outermost first.

    With `merge` there are as few as all views allow.

    Loops are sorted so that the first view's (the result's) smallest stride is innermost.
    """
    shape = views[0].shape
    loops: list[Loop] = [
        (size, tuple(view.strides[axis] for view in views))
        for axis, size in enumerate(shape)
        if size != 1
    ]
    loops.sort(key=lambda loop: (-abs(loop[1][0]), -abs(loop[1][-1])))
    merged: list[Loop] = []
    for size, strides in loops:
        if merge and merged and merged[-1][1] == tuple(size * stride for stride in strides):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    return merged


def loops_to_operands(views: Sequence[View], loops: Sequence[Loop], width: int) -> list[Operand]:
    """Operands of equal extents from outer loops and `width` contiguous bytes.

    The last two loops become lines and positions, those before them planes.
    """
    outer = [*loops]
    # One loop becomes lines, as rows of a product are: bands of the two then agree.
    while len(outer) < 2:
        outer.append((1, (0,) * len(views)))
    planes, (lines, positions) = outer[:-2], outer[-2:]
    operands = []
    for index, view in enumerate(views):
        starts = [view.offset]
        for size, strides in planes:
            starts = [start + i * strides[index] for start in starts for i in range(size)]
        operands.append(
            Operand(
                buffer=view.buffer,
                planes=tuple(starts),
                lines=lines[0],
                positions=positions[0],
                width=width,
                line_pitch=lines[1][index],
                position_pitch=positions[1][index],
                byte_planes=view.planes,
            )
        )
    return operands


def moved(operand: Operand, offset: int) -> Operand:
    """`operand`, `offset` bytes further in its buffer."""
    return replace(operand, planes=tuple(start + offset for start in operand.planes))
