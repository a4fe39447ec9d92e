"""What an instruction's loops as a whole show: whether it can fault, the banks it meets."""

import numpy as np

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.faults import Unit
from systol_hw.program import Program
from systol_sim.instruction_columns import (
    ACCESSES,
    B_PLANE_BYTES,
    BINARY,
    COPY,
    FIELDS,
    FIRST,
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
    UNIT,
    WEIGHT_PORT,
)

_Span = tuple[int, int]
"""Least and greatest address of accesses."""
_TAPS_LIMIT = 256
"""Taps of a window up to which its accesses are bounded one tap at a time."""


def bounds_of(row: np.ndarray, program: Program) -> tuple[bool, int, int]:
    """Bounds on all accesses of the instruction in table row `row`.

    Returns
    -------
    tuple
        Whether they show that no access can fault: False only costs time, because the stepper then
        checks each one. And, if so, masks of the banks of the unified buffer that its reads and
        that its writes may touch.
    """
    arch, unit = program.arch, Unit(int(row[UNIT]))
    fields = dict(zip(FIELDS[unit], (int(value) for value in row[FIRST:]), strict=False))
    reads: list[_Span] | None
    writes: list[_Span] | None = []
    if unit is Unit.LOAD:
        reads, writes = [], _transfer(fields, row[PORT] == WEIGHT_PORT, program)
    elif unit is Unit.STORE:
        reads = _transfer(fields, row[PORT] == WEIGHT_PORT, program)
    elif unit is Unit.WEIGHTS:
        in_buffer = row[PORT] == UNIFIED_BUFFER
        reads = _tiles(fields, arch.ub_bytes if in_buffer else program.weight_memory_bytes, arch)
        if not in_buffer and reads is not None:
            reads = []
    elif unit is Unit.MATRIX:
        reads = _rows(fields, arch)
    else:
        reads, writes = _vector(fields, row, arch), _outputs(fields, row, arch)
    if reads is None or writes is None:
        return False, 0, 0
    return True, _banks(reads, arch), _banks(writes, arch)


def _banks(spans: list[_Span], arch: Arch) -> int:
    mask = 0
    for low, high in spans:
        for bank in range(low // arch.bank_bytes, high // arch.bank_bytes + 1):
            mask |= 1 << bank
    return mask


def _span(first: int, *loops: tuple[int, int]) -> _Span:
    """Least and greatest value of `first` plus any combination of (count, step) loops."""
    low = high = first
    for count, step in loops:
        reach = (count - 1) * step
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def _inside(span: _Span, extra: int, size: int) -> bool:
    return 0 <= span[0] and span[1] + extra <= size


def _steps_inside(first: int, count: int, step: int, limit: int) -> _Span | None:
    """The first and last i in 0..count-1 with 0 <= first + i*step < limit, where step >= 0."""
    if step == 0:
        return (0, count - 1) if 0 <= first < limit else None
    low = max(0, -(first // step))
    high = min(count - 1, (limit - 1 - first) // step)
    return (low, high) if low <= high else None


def _transfer(f: dict[str, int], weight_memory: bool, program: Program) -> list[_Span] | None:
    windows = program.windows
    if weight_memory:
        size = program.weight_memory_bytes
    else:
        size = windows[f["window"]].size_bytes if f["window"] < len(windows) else 0
    memory = _span(
        f["memory_address"], (f["count0"], f["memory_stride0"]), (f["count1"], f["memory_stride1"])
    )
    buffer = _span(f["ub_address"], (f["count0"], f["ub_stride0"]), (f["count1"], f["ub_stride1"]))
    run = f["run_bytes"]
    if not _inside(memory, run, size) or not _inside(buffer, run, program.arch.ub_bytes):
        return None
    return [(buffer[0], buffer[1] + run - 1)]


def _tiles(f: dict[str, int], size: int, arch: Arch) -> list[_Span] | None:
    lines, line = arch.rows, arch.columns
    if f["transpose"]:
        lines, line = line, lines
    if f["n_count"] == f["outer_count"] == f["inner_count"] == 1:
        lines, line = f["k_last"], f["n_last"]
        if f["transpose"]:
            lines, line = line, lines
    span = _span(
        f["address"], (f["n_count"], f["n_stride"]), (f["outer_count"], f["outer_stride"]),
        (f["inner_count"], f["inner_stride"]), (lines, f["row_pitch"]),
    )
    return [(span[0], span[1] + line - 1)] if _inside(span, line, size) else None


def _rows(f: dict[str, int], arch: Arch) -> list[_Span] | None:
    accumulators = _span(
        f["acc_address"], (f["n_count"], f["acc_n_step"]), (f["y_count"] * f["x_count"], 1),
    )
    if not _inside(accumulators, 1, arch.accumulator_rows):
        return None
    # Along the input row, position and address move together; only what is inside is read.
    along = ((f["n_count"], f["n_step"]), (f["k1_count"], f["k1_step"]),
             (f["k2_count"], f["k2_step"]), (f["x_count"], f["x_step"]))
    low, high = _span(f["p_start"], *along)
    if not -(1 << 31) <= low <= high < 1 << 31:
        return None
    low, high = max(low, 0), min(high + arch.rows, f["p_limit"]) - 1
    reads: list[_Span] = []
    if low > high:
        return reads
    for k0 in range(f["k0_count"]):
        lines = _steps_inside(
            f["y_start"] + k0 * f["k0_step"], f["y_count"], f["y_step"], f["y_limit"]
        )
        if lines is not None:
            first = f["ub_address"] - f["p_start"] + k0 * f["k0_address_step"]
            ends = [first + y * f["y_address_step"] for y in lines]
            reads.append((min(ends) + low, max(ends) + high))
    return reads if all(_inside(span, 1, arch.ub_bytes) for span in reads) else None


def _windowed(f: dict[str, int], planes: tuple[int, int]) -> list[_Span] | None:
    """What a window operation's taps inside touch: the first bytes, or accumulator rows."""
    if f["ky_count"] * f["kx_count"] > _TAPS_LIMIT:
        return None
    # Below 2^32 stands for a negative number where the first taps lie outside.
    first = f["a_address"] - ((f["a_address"] >> 31) << 32)
    spans: list[_Span] = []
    for ky in range(f["ky_count"]):
        lines = _steps_inside(
            f["y_start"] + ky * f["ky_step"], f["y_count"], f["y_step"], f["y_limit"]
        )
        for kx in range(f["kx_count"]):
            columns = _steps_inside(
                f["x_start"] + kx * f["kx_step"], f["x_count"], f["x_step"], f["x_limit"]
            )
            if lines is None or columns is None:
                continue
            tap = first + ky * f["a_ky_step"] + kx * f["a_kx_step"]
            tap += lines[0] * f["a_y_step"] + columns[0] * f["a_x_step"]
            spans.append(_span(
                tap, (f["n_count"], f["a_n_step"]), (lines[1] - lines[0] + 1, f["a_y_step"]),
                (columns[1] - columns[0] + 1, f["a_x_step"]), planes,
            ))
    return spans


def _outputs(f: dict[str, int], row: np.ndarray, arch: Arch) -> list[_Span] | None:
    low, high = _span(
        f["out_address"], (f["n_count"], f["out_n_step"]), (f["y_count"], f["out_y_step"]),
        (f["x_count"], f["out_x_step"]), (int(row[PASSES]) + 1, int(row[OUT_PLANE_BYTES])),
    )
    if not _inside((low, high), arch.columns, arch.ub_bytes):
        return None
    return [(low, high + arch.columns - 1)]


def _vector(f: dict[str, int], row: np.ndarray, arch: Arch) -> list[_Span] | None:
    kind = row[KIND]
    spans: list[tuple[_Span, int]] = []
    planes = (2, int(row[SOURCE_PLANE_BYTES])) if row[SOURCE_PLANE_BYTES] >= 0 else (1, 0)
    if kind in (REQUANTIZE, COPY):
        taps = _windowed(f, planes)
        if taps is None:
            return None
        if f["source_ub"]:
            spans += [(tap, arch.columns) for tap in taps]
        elif not all(_inside(tap, 1, arch.accumulator_rows) for tap in taps):
            return None
    if kind in (BINARY, TABLE):
        source = _span(
            f["a_address"], (f["n_count"], f["a_n_step"]), (f["y_count"], f["a_y_step"]),
            (f["x_count"], f["a_x_step"]), planes,
        )
        spans.append((source, arch.columns))
    if kind == BINARY:
        spans.append((
            _span(
                f["b_address"], (f["n_count"], f["b_n_step"]), (f["y_count"], f["b_y_step"]),
                (f["x_count"], f["b_x_step"]), (int(row[ACCESSES]), int(row[B_PLANE_BYTES])),
            ),
            arch.columns,
        ))
    if kind == TABLE:
        spans.append((_span(f["table_address"]), int(row[TABLE_BYTES])))
    if kind == REQUANTIZE:
        shared = int(row[PARAMETERS])
        count = 1 if shared else f["n_count"]
        span = _span(f["parameter_address"], (count, PARAMETER_BYTES * arch.columns))
        spans.append((span, PARAMETER_BYTES * (shared or arch.columns)))
    if not all(_inside(span, extra, arch.ub_bytes) for span, extra in spans):
        return None
    return [(low, high + extra - 1) for (low, high), extra in spans]
