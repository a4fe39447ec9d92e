"""Whether an instruction's loops as a whole show that no access of it can be out of range."""

import numpy as np

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.faults import Unit
from systol_hw.program import Program
from systol_sim.instruction_columns import (
    ACCESSES,
    B_PLANE_BYTES,
    BINARY,
    FIELDS,
    FILL,
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


def never_faults(row: np.ndarray, program: Program) -> bool:
    """Whether bounds on the whole instruction in table row `row` show that no access can fault.

    False only costs time: the stepper then checks each access.
    """
    unit = Unit(int(row[UNIT]))
    fields = dict(zip(FIELDS[unit], (int(value) for value in row[FIRST:]), strict=False))
    if unit in (Unit.LOAD, Unit.STORE):
        return _transfer_fits(fields, row[PORT] == WEIGHT_PORT, program)
    if unit is Unit.WEIGHTS:
        in_buffer = row[PORT] == UNIFIED_BUFFER
        size = program.arch.ub_bytes if in_buffer else program.weight_memory_bytes
        return _tiles_fit(fields, size, program.arch)
    if unit is Unit.MATRIX:
        return _rows_fit(fields, program.arch)
    return _vector_fits(fields, row, program.arch)


def _span(first: int, *loops: tuple[int, int]) -> _Span:
    """Least and greatest value of `first` plus any combination of (count, step) loops."""
    low = high = first
    for count, step in loops:
        reach = (count - 1) * step
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def _inside(span: _Span, extra: int, size: int) -> bool:
    return 0 <= span[0] and span[1] + extra <= size


def _transfer_fits(f: dict[str, int], weight_memory: bool, program: Program) -> bool:
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
    return _inside(memory, run, size) and _inside(buffer, run, program.arch.ub_bytes)


def _tiles_fit(f: dict[str, int], size: int, arch: Arch) -> bool:
    lines, line = arch.rows, arch.columns
    if f["transpose"]:
        lines, line = line, lines
    span = _span(
        f["address"], (f["n_count"], f["n_stride"]), (f["outer_count"], f["outer_stride"]),
        (f["inner_count"], f["inner_stride"]), (lines, f["row_pitch"]),
    )
    return _inside(span, line, size)


def _rows_fit(f: dict[str, int], arch: Arch) -> bool:
    span = _span(
        f["ub_address"], (f["n_count"], f["n_step"]),
        (f["k0_count"], f["k0_address_step"]), (f["k1_count"], f["k1_step"]),
        (f["k2_count"], f["k2_step"]), (f["y_count"], f["y_address_step"]),
        (f["x_count"], f["x_step"]),
    )
    accumulators = _span(
        f["acc_address"], (f["n_count"], f["acc_n_step"]), (f["y_count"] * f["x_count"], 1),
    )
    return _inside(span, arch.rows, arch.ub_bytes) and _inside(
        accumulators, 1, arch.accumulator_rows
    )


def _vector_fits(f: dict[str, int], row: np.ndarray, arch: Arch) -> bool:
    groups, kind = (f["n_count"], f["a_n_step"]), row[KIND]
    spans = [(
        _span(
            f["out_address"], (f["n_count"], f["out_n_step"]), (f["y_count"], f["out_y_step"]),
            (f["x_count"], f["out_x_step"]), (int(row[PASSES]) + 1, int(row[OUT_PLANE_BYTES])),
        ),
        arch.columns,
    )]
    if kind != FILL:
        planes = (2, int(row[SOURCE_PLANE_BYTES])) if row[SOURCE_PLANE_BYTES] >= 0 else (1, 0)
        source = _span(
            f["a_address"], groups, (f["y_count"], f["a_y_step"]), (f["x_count"], f["a_x_step"]),
            (f["ky_count"], f["a_ky_step"]), (f["kx_count"], f["a_kx_step"]), planes,
        )
        if f["source_ub"]:
            spans.append((source, arch.columns))
        elif not _inside(source, 1, arch.accumulator_rows):
            return False
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
    return all(_inside(span, extra, arch.ub_bytes) for span, extra in spans)
