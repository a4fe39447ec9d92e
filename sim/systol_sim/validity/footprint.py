"""Exactly which bytes and accumulator rows an instruction reads and writes.

A footprint is a set of disjoint intervals for each memory. Loops are never unrolled byte by byte:
loops whose steps leave no gap collapse into one interval, the others are summed by numpy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import PARAMETER_BYTES, WINDOWS, Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction
from systol_hw.isa.choices import OperandWidth, Reduce, ResultWidth, TableWidth
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.tables.faults import Unit

UB = 0
"""Space number of the unified buffer (bytes)."""
ACCUMULATORS = 1
"""Space number of the accumulators (rows)."""
WEIGHT = 2
"""Space number of weight memory (bytes)."""
WINDOW = 3
"""Space number of host window 0; window w is `WINDOW + w`, the alternate set from w = 8 on."""

ADDRESS_SPAN = 1 << 32
"""Addresses are computed modulo this."""
MOST_PIECES = 1 << 22
"""Intervals that are followed: of an instruction while it is worked out, and of a program's
different footprints together. A product of 2048^3 has 40,000; an instruction of a stranger's could
ask for 65535 * 65535."""


def space_name(space: int) -> str:
    """`space` in words."""
    names = {UB: "unified buffer", ACCUMULATORS: "accumulators", WEIGHT: "weight memory"}
    return names.get(space, f"host window {space - WINDOW}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """A set of places in one space: disjoint, ascending intervals `starts[i] .. ends[i] - 1`.

    Parameters
    ----------
    space
        `UB`, `ACCUMULATORS`, `WEIGHT` or `WINDOW + number`.
    starts, ends
        int64 of one shape (intervals,), not empty. Places are reduced modulo 2**32; what reaches
        past a memory's end is outside it.
    """

    space: int
    starts: np.ndarray
    ends: np.ndarray

    @property
    def first(self) -> int:
        """The lowest place."""
        return int(self.starts[0])

    @property
    def last(self) -> int:
        """The highest place."""
        return int(self.ends[-1]) - 1

    @property
    def size(self) -> int:
        """Number of places."""
        return int((self.ends - self.starts).sum())

    def index(self, origin: int = 0) -> slice | np.ndarray:
        """What selects these places in an array whose element 0 is place `origin`."""
        if self.starts.size == 1:
            return slice(self.first - origin, self.last + 1 - origin)
        return self.places() - origin

    def places(self) -> np.ndarray:
        """All places, ascending: int64."""
        lengths = self.ends - self.starts
        firsts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        return np.asarray(np.arange(lengths.sum()) + np.repeat(self.starts - firsts, lengths))

    def clip(self, low: int, high: int) -> "Region | None":
        """The part within `low .. high - 1`, or None."""
        if low <= self.first and self.last < high:
            return self
        starts, ends = np.maximum(self.starts, low), np.minimum(self.ends, high)
        keep = starts < ends
        if not keep.any():
            return None
        return Region(space=self.space, starts=starts[keep], ends=ends[keep])

    def overlap(self, other: "Region") -> int | None:
        """The lowest place that both have, or None."""
        if self.space != other.space or self.first > other.last or other.first > self.last:
            return None
        # The interval of `other` that ends after each start is the only one that can meet it first.
        at = np.searchsorted(other.ends, self.starts, side="right")
        meets = at < other.ends.size
        low = np.maximum(self.starts[meets], other.starts[at[meets]])
        low = low[low < self.ends[meets]]
        return int(low[0]) if low.size else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprint:
    """What one instruction reads and what it writes."""

    reads: tuple[Region, ...]
    writes: tuple[Region, ...]

    @property
    def pieces(self) -> int:
        """Number of intervals."""
        return sum(region.starts.size for region in (*self.reads, *self.writes))


Intervals = tuple[np.ndarray, np.ndarray]


def distinct(values: np.ndarray) -> np.ndarray:
    """The different ones of `values`, of which there is one or more, ascending.

    `np.unique` hashes integers, which takes several times as long.
    """
    ordered = np.sort(values)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


def merge_intervals(starts: np.ndarray, ends: np.ndarray) -> Intervals:
    """The union of intervals as disjoint ascending ones."""
    if starts.size <= 1:
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate(([True], starts[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], reach[last]


def add_offsets(intervals: Intervals, offsets: np.ndarray) -> Intervals:
    """The union of `intervals` moved by each of `offsets`."""
    starts, ends = intervals
    if offsets.size == 1:
        return starts + offsets[0], ends + offsets[0]
    _limit(starts.size * offsets.size)
    return merge_intervals(
        np.add.outer(offsets, starts).reshape(-1), np.add.outer(offsets, ends).reshape(-1)
    )


def box(base: int, length: int, loops: Iterable[tuple[int, int]]) -> Intervals:
    """The union of `length` places from `base + sum(i * stride)` on, i < count for each loop.

    Parameters
    ----------
    loops
        (count, stride) of each loop; strides may be negative.
    """
    strides = []
    for count, stride in loops:
        if stride < 0:
            base += (count - 1) * stride
        if count > 1 and stride:
            strides.append((abs(stride), count))
    strides.sort()
    intervals: Intervals | None = None
    for stride, count in strides:
        if intervals is None and stride <= length:
            length += stride * (count - 1)
            continue
        if intervals is None:
            intervals = np.array([base]), np.array([base + length])
        _limit(count)
        intervals = add_offsets(intervals, np.arange(count) * stride)
    return intervals if intervals is not None else (np.array([base]), np.array([base + length]))


def _limit(count: int) -> None:
    if count > MOST_PIECES:
        raise InvalidProgramError(
            f"an instruction touches memory in {count} separate pieces or more; the checker "
            f"follows at most {MOST_PIECES}: split the instruction"
        )


def _region(space: int, intervals: Intervals) -> Region:
    """Reduce modulo 2**32, keeping an interval that crosses the end whole (it is outside)."""
    starts, ends = intervals
    turns = starts // ADDRESS_SPAN * ADDRESS_SPAN
    if turns.any():
        starts, ends = merge_intervals(starts - turns, ends - turns)
    return Region(space=space, starts=starts, ends=ends)


def footprint(instruction: Instruction, arch: Arch) -> Footprint:
    """The exact footprint of `instruction`, which must decode on `arch`.

    Raises
    ------
    InvalidProgramError
        For a footprint of more separate pieces than the checker follows.
    """
    key = (instruction.word & ~_ORDER_BITS, arch.rows, arch.columns)
    found = _FOUND.get(key)
    if found is None:
        found = _footprint(instruction, arch)
        if len(_FOUND) >= _MOST_FOUND:
            _FOUND.clear()
        if all(region.starts.size <= _FEW for region in (*found.reads, *found.writes)):
            _FOUND[key] = found
    return found


_ORDER_BITS = ((1 << 19) - 1) ^ 0xFF
"""Token masks and drain bit, of which no footprint depends: `systol_hw.isa.operations`."""
_FOUND: dict[tuple[int, int, int], Footprint] = {}
"""Footprints of late: a program is examined when it is made, ordered, checked and compared."""
_MOST_FOUND, _FEW = 2000, 64
"""Footprints that are kept, and intervals of a region that is: a few megabytes at most."""


def _footprint(instruction: Instruction, arch: Arch) -> Footprint:
    unit = instruction.unit
    if unit is Unit.LOAD or unit is Unit.STORE:
        memory, buffer = _transfer(instruction)
        if unit is Unit.LOAD:
            return Footprint(reads=(memory,), writes=(buffer,))
        return Footprint(reads=(buffer,), writes=(memory,))
    if unit is Unit.WEIGHTS:
        return Footprint(reads=_tiles(instruction, arch), writes=())
    if unit is Unit.MATRIX:
        return _matmul(instruction, arch)
    if unit is Unit.VECTOR:
        return _vector(instruction, arch)
    return Footprint(reads=(), writes=())


def footprints(program: Iterable[Instruction], arch: Arch) -> Iterator[Footprint]:
    """The footprint of each instruction; equal ones, whatever their tokens, are one object.

    Raises
    ------
    InvalidProgramError
        In the place of the first footprint that has too many pieces, by itself or with those
        before it: what a program of a few instructions makes its reader keep is bounded.
    """
    known: dict[int, Footprint] = {}
    pieces = 0
    for item in program:
        key = item.word & ~_ORDER_BITS
        if key not in known:
            known[key] = footprint(item, arch)
            pieces += known[key].pieces
            if pieces > MOST_PIECES:
                raise InvalidProgramError(
                    f"the program up to here touches memory in {pieces} separate pieces; the "
                    f"checker follows at most {MOST_PIECES}: let transfers have longer runs, or "
                    "split the program"
                )
        yield known[key]


def _transfer(i: Instruction) -> tuple[Region, Region]:
    space = WEIGHT
    if "window" in i.fields:
        alternate = i.operation.name.endswith("_alternate")
        space = WINDOW + i["window"] + (WINDOWS if alternate else 0)
    memory = box(
        i["memory_address"],
        i["run_bytes"],
        ((i["count0"], i["memory_stride0"]), (i["count1"], i["memory_stride1"])),
    )
    buffer = box(
        i["ub_address"],
        i["run_bytes"],
        ((i["count0"], i["ub_stride0"]), (i["count1"], i["ub_stride1"])),
    )
    return _region(space, memory), _region(UB, buffer)


def _parts(count: int, live_last: int, live_full: int) -> list[tuple[int, int, int]]:
    """(first index, indices, live places) of the full steps of a loop and of its last one."""
    if live_last == live_full:
        return [(0, count, live_full)]
    parts = [(count - 1, 1, live_last)]
    return [(0, count - 1, live_full), *parts] if count > 1 else parts


def _union(pieces: list[Intervals]) -> Intervals:
    if len(pieces) == 1:
        return pieces[0]
    _limit(sum(starts.size for starts, _ in pieces))
    return merge_intervals(
        np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
    )


def _tiles(i: Instruction, arch: Arch) -> tuple[Region, ...]:
    pieces = []
    for n0, n_count, n_live in _parts(i["n_count"], i["n_last"], arch.columns):
        for i0, i_count, k_live in _parts(i["inner_count"], i["k_last"], arch.rows):
            base = i["address"] + n0 * i["n_stride"] + i0 * i["inner_stride"]
            loops = (
                (n_count, i["n_stride"]),
                (i["outer_count"], i["outer_stride"]),
                (i_count, i["inner_stride"]),
            )
            lines, length = (n_live, k_live) if i["transpose"] else (k_live, n_live)
            pieces.append(box(base, length, (*loops, (lines, i["row_pitch"]))))
    source = UB if i.operation.name == "read_weights_ub" else WEIGHT
    return (_region(source, _union(pieces)),)


def _offsets_inside(count: int, step: int, start: int, window_step: int, limit: int,
                    taps: int, tap_step: int, tap_window_step: int) -> np.ndarray:
    """Address offsets of one axis's (tap, position) pairs whose coordinate is inside the window.

    Offset `position * step + tap * tap_step` belongs to coordinate
    `start + position * window_step + tap * tap_window_step`, inside if 0 <= coordinate < limit.
    """
    pieces = []
    total = 0
    for tap in range(taps):
        origin = start + tap * tap_window_step
        if window_step:
            # Coordinates grow with the position, so those inside are a range.
            low = max(0, -(origin // window_step))
            high = min(count, -((origin - limit) // window_step))
        else:
            low, high = 0, count if 0 <= origin < limit else 0
        if low < high:
            positions = np.arange(low, high) if step else np.zeros(1, np.int64)
            total += positions.size
            _limit(total)
            pieces.append(positions * step + tap * tap_step)
    return distinct(np.concatenate(pieces)) if pieces else np.zeros(0, np.int64)


def _matmul(i: Instruction, arch: Arch) -> Footprint:
    rows = i["y_count"] * i["x_count"]
    results = _region(
        ACCUMULATORS, box(i["acc_address"], rows, ((i["n_count"], i["acc_n_step"]),))
    )
    reads = [results] if i["accumulate"] else []
    # Address and position p advance together in every loop but the two that change the line, so
    # the bytes read are one set of positions, clipped to the input row, moved to each line.
    positions = []
    for k0, k_count, k_live in _parts(i["k2_count"], i["k_last"], arch.rows):
        loops = (
            (i["n_count"], i["n_step"]),
            (i["k1_count"], i["k1_step"]),
            (k_count, i["k2_step"]),
            (i["x_count"], i["x_step"]),
        )
        positions.append(box(i["p_start"] + k0 * i["k2_step"], k_live, loops))
    starts, ends = _inside(_union(positions), i["p_limit"])
    offsets = _offsets_inside(
        i["y_count"], i["y_address_step"], i["y_start"], i["y_step"], i["y_limit"],
        i["k0_count"], i["k0_address_step"], i["k0_step"],
    )
    if starts.size and offsets.size:
        moved = add_offsets((starts, ends), offsets + i["ub_address"] - i["p_start"])
        reads.append(_region(UB, moved))
    return Footprint(reads=tuple(reads), writes=(results,))


def _inside(intervals: Intervals, limit: int) -> Intervals:
    """The parts within 0 .. limit - 1 modulo 2**32."""
    starts, ends = intervals
    turns = starts // ADDRESS_SPAN * ADDRESS_SPAN
    starts, ends = starts - turns, ends - turns
    keep = starts < limit
    # What crosses the end goes on at 0, and then reaches its own start if it is a turn long.
    rest = ends[(ends > ADDRESS_SPAN) & (limit > 0)] - ADDRESS_SPAN
    return merge_intervals(
        np.concatenate((starts[keep], np.zeros(rest.size, np.int64))),
        np.minimum(np.concatenate((ends[keep], rest)), limit),
    )


def _vector(i: Instruction, arch: Arch) -> Footprint:
    name = i.operation.name
    writes = (_operand(i, arch, "out", ResultWidth(i["width"]).planes),)
    if name == "fill":
        return Footprint(reads=(), writes=writes)
    if name == "binary":
        return Footprint(reads=(_source(i, arch, "a"), _source(i, arch, "b")), writes=writes)
    if name == "table":
        size = TableWidth(i["table_width"]).table_bytes
        table = _region(UB, box(i["table_address"], size, ()))
        return Footprint(reads=(table, _source(i, arch, "a")), writes=writes)
    reads = []
    taps = _taps(i, arch)
    if taps is not None:
        reads.append(taps)
    if name == "requantize":
        entries = (i["n_count"] - 1) * arch.columns + i["n_last"]
        if i["reduce"] == Reduce.MEAN:
            entries = i["parameter_count"]
        reads.append(_region(UB, box(i["parameter_address"], PARAMETER_BYTES * entries, ())))
    return Footprint(reads=tuple(reads), writes=writes)


def _source(i: Instruction, arch: Arch, name: str) -> Region:
    """All bytes of operand `name`, a or b."""
    return _operand(i, arch, name, OperandWidth(i[f"{name}_width"]).planes)


def _operand(i: Instruction, arch: Arch, name: str, planes: int) -> Region:
    """All bytes of an operand in the unified buffer, or of the output, that has no window."""
    pieces = []
    for n0, count, live in _parts(i["n_count"], i["n_last"], arch.columns):
        loops = (
            (count, i[f"{name}_n_step"]),
            (i["y_count"], i[f"{name}_y_step"]),
            (i["x_count"], i[f"{name}_x_step"]),
            (planes, PLANE_UNIT_BYTES * i[f"{name}_plane_step"]),
        )
        pieces.append(box(i[f"{name}_address"] + n0 * i[f"{name}_n_step"], live, loops))
    return _region(UB, _union(pieces))


def _taps(i: Instruction, arch: Arch) -> Region | None:
    """What the taps inside the window read; None if there is none."""
    xs = _offsets_inside(
        i["x_count"], i["a_x_step"], i["x_start"], i["x_step"], i["x_limit"],
        i["kx_count"], i["a_kx_step"], i["kx_step"],
    )
    ys = _offsets_inside(
        i["y_count"], i["a_y_step"], i["y_start"], i["y_step"], i["y_limit"],
        i["ky_count"], i["a_ky_step"], i["ky_step"],
    )
    if not xs.size or not ys.size:
        return None
    planes = OperandWidth(i["a_width"]).planes if i["source_ub"] else 1
    pieces = []
    for n0, count, live in _parts(i["n_count"], i["n_last"], arch.columns):
        loops = ((count, i["a_n_step"]), (planes, PLANE_UNIT_BYTES * i["a_plane_step"]))
        length = live if i["source_ub"] else 1
        part = box(i["a_address"] + n0 * i["a_n_step"], length, loops)
        pieces.append(add_offsets(add_offsets(part, xs), ys))
    return _region(UB if i["source_ub"] else ACCUMULATORS, _union(pieces))
