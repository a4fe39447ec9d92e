"""What instructions' loops as a whole show: whether they can fault, and the banks they meet.

All instructions of a unit at a time; arrays have an entry for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import ALL_WINDOWS, PARAMETER_BYTES, Arch
from systol_hw.program import Program
from systol_hw.tables.faults import Unit
from systol_sim.timing.state.table_columns import (
    ACCESSES,
    B_PLANE_BYTES,
    BINARY,
    COLUMNS_OF,
    COPY,
    KIND,
    OUT_PLANE_BYTES,
    PARAMETERS,
    PASSES,
    PORT,
    REQUANTIZE,
    SOURCE_PLANE_BYTES,
    TABLE,
    TABLE_BYTES,
    UNIFIED_BUFFER,
    WEIGHT_PORT,
)

_Fields = Mapping[str, np.ndarray]
_Loop = tuple[np.ndarray | int, np.ndarray | int]
"""Count and step."""
_TAPS_LIMIT = 256
"""Taps in one direction up to which accesses are bounded one tap at a time; beyond, not at all."""
_FAR = 1 << 62
"""Above any address."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Span:
    """From the first byte (or accumulator row) of all accesses to behind the last.

    Parameters
    ----------
    low, end
        int64 (instructions,).
    some
        Whether there are any accesses.
    """

    low: np.ndarray
    end: np.ndarray
    some: np.ndarray | bool = True

    def inside(self, size: np.ndarray | int) -> np.ndarray:
        """Whether all accesses lie in a memory of `size`."""
        return ~np.asarray(self.some) | ((self.low >= 0) & (self.end <= size))

    def banks(self, arch: Arch) -> np.ndarray:
        """Mask of the banks from the first access' to the last one's, if all are inside."""
        low = np.clip(self.low, 0, arch.ub_bytes - 1) // arch.bank_bytes
        high = np.clip(self.end - 1, 0, arch.ub_bytes - 1) // arch.bank_bytes
        one = np.int64(1)
        return np.where(self.some, (one << (high + 1)) - (one << low), 0)


def bounds_of(
    rows: np.ndarray, unit: Unit, program: Program
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds on all accesses of the instructions of `unit` in table rows `rows`.

    Returns
    -------
    tuple
        bool (instructions,): whether they show that no access can fault. False only costs time,
        because the stepper then checks each one. And, int64 (instructions,), if so, masks of the
        banks of the unified buffer that reads and that writes may touch, no fewer than do.
    """
    arch = program.arch
    f = {name: rows[:, column] for name, column in COLUMNS_OF[unit]._asdict().items()}
    reads: list[_Span] = []
    writes: list[_Span] = []
    if unit in (Unit.LOAD, Unit.STORE):
        safe, buffer = _transfers(f, rows[:, PORT] == WEIGHT_PORT, program)
        (writes if unit is Unit.LOAD else reads).append(buffer)
    elif unit is Unit.WEIGHTS:
        safe, buffer = _tiles(f, rows[:, PORT] == UNIFIED_BUFFER, program)
        reads.append(buffer)
    elif unit is Unit.MATRIX:
        safe, buffer = _rows(f, arch)
        reads.append(buffer)
    else:
        output = _span(
            f["out_address"], arch.columns, (f["n_count"], f["out_n_step"]),
            (f["y_count"], f["out_y_step"]), (f["x_count"], f["out_x_step"]),
            (rows[:, PASSES] + 1, rows[:, OUT_PLANE_BYTES]),
        )
        writes.append(output)
        safe, reads = _vector(f, rows, arch)
        safe &= output.inside(arch.ub_bytes)
    masks = []
    for spans in (reads, writes):
        mask = np.zeros(len(rows), np.int64)
        for span in spans:
            mask |= span.banks(arch)
        masks.append(np.where(safe, mask, 0))
    return safe, masks[0], masks[1]


def _span(
    first: np.ndarray, length: np.ndarray | int, *loops: _Loop, some: np.ndarray | bool = True
) -> _Span:
    """Accesses of `length` at `first` plus any combination of the loops' steps."""
    low = high = first
    for count, step in loops:
        reach = (count - 1) * step
        low, high = low + np.minimum(reach, 0), high + np.maximum(reach, 0)
    return _Span(low=low, end=high + length, some=some)


def _transfers(f: _Fields, weight_memory: np.ndarray, program: Program) -> tuple[np.ndarray, _Span]:
    windows = np.zeros(ALL_WINDOWS, np.int64)
    windows[: len(program.windows)] = [window.size_bytes for window in program.windows]
    size = np.where(weight_memory, program.weight_memory_bytes, windows[f["window"]])
    memory = _span(
        f["memory_address"], f["run_bytes"], (f["count0"], f["memory_stride0"]),
        (f["count1"], f["memory_stride1"]),
    )
    buffer = _span(
        f["ub_address"], f["run_bytes"], (f["count0"], f["ub_stride0"]),
        (f["count1"], f["ub_stride1"]),
    )
    return memory.inside(size) & buffer.inside(program.arch.ub_bytes), buffer


def _tiles(f: _Fields, in_buffer: np.ndarray, program: Program) -> tuple[np.ndarray, _Span]:
    arch = program.arch
    # A single tile is as large as its last one; of more, the first is whole.
    single = (f["n_count"] == 1) & (f["outer_count"] == 1) & (f["inner_count"] == 1)
    deep = np.where(single, f["k_last"], arch.rows)
    wide = np.where(single, f["n_last"], arch.columns)
    turned = f["transpose"] != 0
    lines, line = np.where(turned, wide, deep), np.where(turned, deep, wide)
    span = _span(
        f["address"], line, (f["n_count"], f["n_stride"]), (f["outer_count"], f["outer_stride"]),
        (f["inner_count"], f["inner_stride"]), (lines, f["row_pitch"]), some=in_buffer,
    )
    everywhere = _Span(low=span.low, end=span.end)
    return everywhere.inside(np.where(in_buffer, arch.ub_bytes, program.weight_memory_bytes)), span


def _rows(f: _Fields, arch: Arch) -> tuple[np.ndarray, _Span]:
    accumulators = _span(
        f["acc_address"], 1, (f["n_count"], f["acc_n_step"]), (f["y_count"] * f["x_count"], 1)
    )
    # Along the input row, position and address move together; only what is inside is read.
    along = _span(
        f["p_start"], arch.rows, (f["n_count"], f["n_step"]), (f["k1_count"], f["k1_step"]),
        (f["k2_count"], f["k2_step"]), (f["x_count"], f["x_step"]),
    )
    safe = accumulators.inside(arch.accumulator_rows)
    safe &= (along.low >= -(1 << 31)) & (along.end - arch.rows < 1 << 31)
    low, end = np.maximum(along.low, 0), np.minimum(along.end, f["p_limit"])
    lines, bounded = _taps(
        f["k0_count"], f["k0_step"], f["k0_address_step"],
        (f["y_start"], f["y_count"], f["y_step"], f["y_limit"], f["y_address_step"]),
    )
    first = f["ub_address"] - f["p_start"]
    span = _Span(
        low=first + lines.low + low, end=first + lines.end - 1 + end,
        some=lines.some & (low < end),
    )
    return safe & bounded & span.inside(arch.ub_bytes), span


def _taps(
    count: np.ndarray, step: np.ndarray, address_step: np.ndarray, outputs: tuple[np.ndarray, ...]
) -> tuple[_Span, np.ndarray]:
    """Offsets, from that of the first position of the first tap, of the positions inside the input.

    Parameters
    ----------
    count, step, address_step
        Taps, their distance in positions, and in addresses.
    outputs
        Of the output's positions: that of the first, count, distance (not negative), the limit of
        those inside, distance in addresses.

    Returns
    -------
    tuple
        The span of the offsets, one each; and whether there are few enough taps to tell.
    """
    start, places, stride, limit, address_stride = outputs
    low = np.full(len(count), _FAR)
    high = np.full(len(count), -_FAR)
    divisor = np.maximum(stride, 1)
    for tap in range(min(int(count.max(initial=0)), _TAPS_LIMIT)):
        position = start + tap * step
        # The first and last i with 0 <= position + i * stride < limit.
        i_low = np.maximum(0, -(position // divisor))
        i_high = np.minimum(places - 1, (limit - 1 - position) // divisor)
        still = stride == 0
        i_low[still], i_high[still] = 0, (places - 1)[still]
        inside = (tap < count) & (i_low <= i_high)
        inside &= ~still | ((position >= 0) & (position < limit))
        ends = tap * address_step + i_low * address_stride, (
            tap * address_step + i_high * address_stride
        )
        low = np.where(inside, np.minimum(low, np.minimum(*ends)), low)
        high = np.where(inside, np.maximum(high, np.maximum(*ends)), high)
    some = low <= high
    return (
        _Span(low=np.where(some, low, 0), end=np.where(some, high, 0) + 1, some=some),
        count <= _TAPS_LIMIT,
    )


def _vector(f: _Fields, rows: np.ndarray, arch: Arch) -> tuple[np.ndarray, list[_Span]]:
    kind = rows[:, KIND]
    plane = rows[:, SOURCE_PLANE_BYTES]
    planes = (np.where(plane >= 0, 2, 1), plane)
    windowed = (kind == REQUANTIZE) | (kind == COPY)
    lines, lines_bounded = _taps(
        f["ky_count"], f["ky_step"], f["a_ky_step"],
        (f["y_start"], f["y_count"], f["y_step"], f["y_limit"], f["a_y_step"]),
    )
    columns, columns_bounded = _taps(
        f["kx_count"], f["kx_step"], f["a_kx_step"],
        (f["x_start"], f["x_count"], f["x_step"], f["x_limit"], f["a_x_step"]),
    )
    # Below 2^32 stands for a negative number where the first taps lie outside.
    first = f["a_address"] - ((f["a_address"] >> 31) << 32)
    in_buffer = f["source_ub"] != 0
    some = windowed & lines.some & columns.some
    taps = _span(
        first + lines.low + columns.low,
        lines.end - lines.low + columns.end - columns.low - 2 + np.where(
            in_buffer, arch.columns, 1
        ),
        (f["n_count"], f["a_n_step"]), planes, some=some,
    )
    safe = taps.inside(np.where(in_buffer, arch.ub_bytes, arch.accumulator_rows))
    safe &= ~windowed | (lines_bounded & columns_bounded)
    binary, table, requantize = kind == BINARY, kind == TABLE, kind == REQUANTIZE
    operand = _span(
        f["a_address"], arch.columns, (f["n_count"], f["a_n_step"]), (f["y_count"], f["a_y_step"]),
        (f["x_count"], f["a_x_step"]), planes, some=binary | table,
    )
    second = _span(
        f["b_address"], arch.columns, (f["n_count"], f["b_n_step"]), (f["y_count"], f["b_y_step"]),
        (f["x_count"], f["b_x_step"]), (rows[:, ACCESSES], rows[:, B_PLANE_BYTES]), some=binary,
    )
    entries = _span(f["table_address"], rows[:, TABLE_BYTES], some=table)
    # Those of mean do not belong to the channels: every group reads the same.
    shared = rows[:, PARAMETERS]
    parameters = _span(
        f["parameter_address"], PARAMETER_BYTES * np.where(shared != 0, shared, arch.columns),
        (np.where(shared != 0, 1, f["n_count"]), PARAMETER_BYTES * arch.columns), some=requantize,
    )
    reads = [operand, second, entries, parameters]
    for span in reads:
        safe &= span.inside(arch.ub_bytes)
    in_ub = _Span(low=taps.low, end=taps.end, some=some & in_buffer)
    return safe, [*reads, in_ub]
