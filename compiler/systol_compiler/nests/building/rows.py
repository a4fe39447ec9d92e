"""Cuts an elementwise operation over views into operands of equal extents, row by row."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from systol_compiler.nests.operand import Loop, Operand, common_loops, loops_to_operands
from systol_compiler.nests.view import View

_MOST_TURNS = 65_535
"""Rows or columns that one instruction can count."""
_MOST_GROUPS = 4_095
"""Channel groups that one instruction can count."""
_MOST_PLANES = 256
"""Planes from which on the two longest loops become lines and positions."""
_LINE_BYTES, _POSITION_BYTES = 1 << 23, 1 << 19
"""Limits of the steps from line to line and from position to position."""


def row_axis(view: View) -> int | None:
    """The axis along which the view's elements are contiguous, if there is one."""
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        if size > 1 and stride == 1:
            return axis
    return None


def contiguous(view: View, axis: int) -> bool:
    """Whether the elements along `axis` lie side by side."""
    return view.shape[axis] == 1 or view.strides[axis] == 1


def uniform(view: View) -> bool:
    """Whether the view repeats one element."""
    return all(n == 1 or s == 0 for n, s in zip(view.shape, view.strides, strict=True))


def rows(views: Sequence[View], columns: int) -> tuple[list[Loop], int]:
    """Outer loops, and the bytes of a row that are contiguous in all views (1 if none are).

    Loops stay as they are where the innermost axis fills the array's columns, so that bands of
    image rows stay bands of image rows; else they are merged.
    """
    loops = common_loops(views, merge=False)
    full = bool(loops) and loops[-1][0] % columns == 0
    if not (full and len(loops) <= 4 and all(stride == 1 for stride in loops[-1][1])):
        loops = common_loops(views)
    if loops and all(stride == 1 for stride in loops[-1][1]):
        return loops[:-1], loops[-1][0]
    return loops, 1


def pieces(
    views: Sequence[View], columns: int, *, repeated: View | None = None
) -> list[list[Operand]]:
    """Operands of one nest each, in the order of `views` (the result first, all of one shape).

    `repeated` is one row of `columns` elements that every row meets: it comes last.
    """
    loops, width = rows(views, columns)
    offsets = [view.offset for view in views]
    if repeated is not None:
        views = [*views, repeated]
        offsets.append(repeated.offset)
        loops = [(size, (*strides, 0)) for size, strides in loops]
    cut = width > columns and (
        repeated is not None or not loops or width > _MOST_GROUPS * columns
    )
    if not cut:
        return _operands(views, offsets, loops, width)
    # Rows of the array's width, and a rest.
    whole, rest = divmod(width, columns)
    steps = tuple(0 if view is repeated else columns for view in views)
    result = _operands(views, offsets, [*loops, (whole, steps)], columns)
    if rest:
        moved = [offset + whole * step for offset, step in zip(offsets, steps, strict=True)]
        result += _operands(views, moved, loops, rest)
    return result


def channel_pieces(views: Sequence[View], axis: int, columns: int) -> list[list[Operand]]:
    """As `pieces`, with all of the contiguous axis `axis` as a row, and no more.

    Of images whose channels fill the array's columns, rows stay rows, as those of products do:
    bands of the two then agree.
    """
    shape = views[0].shape
    images = len(shape) == 4 and shape[axis] >= columns
    loops = common_loops([view.slice(axis, 0, 1) for view in views], merge=not images)
    offsets = [view.offset for view in views]
    return _operands(views, offsets, loops, views[0].shape[axis])


def _operands(
    views: Sequence[View], offsets: Sequence[int], loops: Sequence[Loop], width: int
) -> list[list[Operand]]:
    result = []
    for starts, piece in _bounded(_arranged(loops), list(offsets)):
        moved = [replace(v, offset=o) for v, o in zip(views, starts, strict=True)]
        result.append(loops_to_operands(moved, piece, width))
    return result


def _arranged(loops: Sequence[Loop]) -> list[Loop]:
    """The loops in an order whose last two suit the steps of lines and positions."""
    if not loops:
        return []
    fit = [
        [place for place, (_, strides) in enumerate(loops) if max(map(abs, strides)) < limit]
        for limit in (_LINE_BYTES, _POSITION_BYTES)
    ]
    pairs = [(line, position) for line in fit[0] for position in fit[1] if line != position]
    one: Loop = (1, (0,) * len(loops[0][1]))
    if not pairs:
        if fit[1]:
            return _with_last(loops, fit[1][-1:])
        if fit[0]:
            return [*_with_last(loops, fit[0][-1:]), one]
        return [*loops, one, one]
    ordered = [pair for pair in pairs if pair[0] < pair[1]] or pairs
    best = max(ordered, key=lambda pair: (pair[1], pair[0]))
    if _planes(loops, best) > _MOST_PLANES:
        best = min(ordered, key=lambda pair: (_planes(loops, pair), -pair[1]))
    return _with_last(loops, best)


def _planes(loops: Sequence[Loop], pair: tuple[int, int]) -> int:
    return prod(size for place, (size, _) in enumerate(loops) if place not in pair)


def _with_last(loops: Sequence[Loop], last: Sequence[int]) -> list[Loop]:
    first = [loop for place, loop in enumerate(loops) if place not in last]
    return [*first, *(loops[place] for place in last)]


def _bounded(loops: list[Loop], offsets: list[int]) -> list[tuple[list[int], list[Loop]]]:
    """The loops cut so that the last two fit an instruction's counts."""
    result = [(offsets, loops)]
    for place in range(max(len(loops) - 2, 0), len(loops)):
        cut: list[tuple[list[int], list[Loop]]] = []
        for start, piece in result:
            size, strides = piece[place]
            for low in range(0, size, _MOST_TURNS):
                part = min(_MOST_TURNS, size - low)
                moved = [o + low * s for o, s in zip(start, strides, strict=True)]
                cut.append((moved, [*piece[:place], (part, strides), *piece[place + 1 :]]))
        result = cut
    return result
