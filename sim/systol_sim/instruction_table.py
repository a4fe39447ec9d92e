"""A program's instructions as one integer table, the form that the compiled stepper reads."""

from dataclasses import dataclass

import numpy as np

from systol_hw.arch import Arch
from systol_hw.faults import Unit
from systol_hw.isa import decode, decode_fault
from systol_hw.program import Program

# Columns that every instruction has.
UNIT, KIND, REFUSED, WAIT, SIGNAL, DRAIN, PORT, SAFE = range(8)
# KIND of control instructions; of VECTOR: reads parameters, accesses nothing (fill), source.
NOP, HALT, TAG, INTERRUPT, BARRIER = range(5)
REQUANTIZE, COPY, FILL = range(3)
HOST_PORT, WEIGHT_PORT = 0, 1
VALUE = 8
"""The tag or the interrupt's value."""

FIRST = 8
"""Column of a unit instruction's first own field."""
TRANSFER_FIELDS = (
    "memory_address", "ub_address", "run_bytes", "count0", "count1",
    "memory_stride0", "memory_stride1", "ub_stride0", "ub_stride1", "window",
)
TILE_FIELDS = (
    "address", "row_pitch", "n_count", "outer_count", "inner_count",
    "n_stride", "outer_stride", "inner_stride", "k_last", "n_last",
)
MATMUL_FIELDS = (
    "ub_address", "p_start", "p_limit", "y_start", "y_limit", "x_count", "y_count",
    "k2_count", "k1_count", "k0_count", "n_count", "x_step", "k2_step", "k1_step", "n_step",
    "y_step", "k0_step", "y_address_step", "k0_address_step", "k_last", "acc_address",
    "acc_n_step",
)
WINDOW_FIELDS = (
    "source_ub", "a_address", "a_n_step", "a_y_step", "a_x_step", "a_ky_step", "a_kx_step",
    "y_start", "x_start", "y_limit", "x_limit", "y_step", "x_step", "ky_step", "kx_step",
    "ky_count", "kx_count", "y_count", "x_count", "n_count", "n_last", "out_address",
    "out_n_step", "out_y_step", "out_x_step", "parameter_address",
)
FIELDS = {
    Unit.LOAD: TRANSFER_FIELDS,
    Unit.STORE: TRANSFER_FIELDS,
    Unit.WEIGHTS: TILE_FIELDS,
    Unit.MATRIX: MATMUL_FIELDS,
    Unit.VECTOR: WINDOW_FIELDS,
}
COLUMNS = FIRST + max(len(names) for names in FIELDS.values())
_CONTROL_KINDS = {"nop": NOP, "halt": HALT, "tag": TAG, "interrupt": INTERRUPT, "barrier": BARRIER}
_VECTOR_KINDS = {"requantize": REQUANTIZE, "copy": COPY, "fill": FILL}


@dataclass(frozen=True, kw_only=True, eq=False)
class InstructionTable:
    """The table of one program.

    Parameters
    ----------
    rows
        int64 (instructions, COLUMNS). REFUSED is 0 or the `FaultCause` with which control refuses
        the instruction.
    order
        int64 (6, instructions): for each unit the indices of its instructions in program order.
    """

    rows: np.ndarray
    order: np.ndarray


def build_table(program: Program) -> InstructionTable:
    """Decode all of `program`; what does not decode becomes a refused row, never an error."""
    count = len(program.code)
    rows = np.zeros((count, COLUMNS), np.int64)
    order = np.zeros((len(Unit), max(count, 1)), np.int64)
    lengths = [0] * len(Unit)
    for pc in range(count):
        data = program.code[pc].tobytes()
        refused = decode_fault(data, program.arch)
        if refused is not None:
            rows[pc, REFUSED] = refused[0]
            continue
        decoded = decode(data)
        unit, name, row = decoded.unit, decoded.operation.name, rows[pc]
        row[UNIT] = unit
        if unit is Unit.CONTROL:
            row[KIND] = _CONTROL_KINDS[name]
            row[VALUE] = decoded.get("tag") + decoded.get("value")
            continue
        row[KIND] = _VECTOR_KINDS.get(name, 0)
        row[WAIT], row[SIGNAL], row[DRAIN] = decoded["wait"], decoded["signal"], decoded["drain"]
        row[PORT] = WEIGHT_PORT if name.endswith("weight_memory") else HOST_PORT
        for place, field in enumerate(FIELDS[unit]):
            row[FIRST + place] = decoded.get(field)
        row[SAFE] = _never_faults(row, unit, program)
        order[unit, lengths[unit]] = pc
        lengths[unit] += 1
    return InstructionTable(rows=rows, order=order)


def _span(first: int, *loops: tuple[int, int]) -> tuple[int, int]:
    """Least and greatest value of `first` plus any combination of (count, step) loops."""
    low = high = first
    for count, step in loops:
        reach = (count - 1) * step
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def _never_faults(row: np.ndarray, unit: Unit, program: Program) -> bool:
    """Whether bounds on the whole instruction show that no access can be out of range.

    False only costs time: the stepper then checks each access.
    """
    arch = program.arch
    f = dict(zip(FIELDS[unit], (int(v) for v in row[FIRST:]), strict=False))

    def inside(span: tuple[int, int], extra: int, size: int) -> bool:
        return 0 <= span[0] and span[1] + extra <= size

    if unit in (Unit.LOAD, Unit.STORE):
        windows = program.windows
        if row[PORT] == WEIGHT_PORT:
            size = program.weight_memory_bytes
        else:
            size = windows[f["window"]].size_bytes if f["window"] < len(windows) else 0
        memory = _span(
            f["memory_address"], (f["count0"], f["memory_stride0"]),
            (f["count1"], f["memory_stride1"]),
        )
        buffer = _span(
            f["ub_address"], (f["count0"], f["ub_stride0"]), (f["count1"], f["ub_stride1"])
        )
        run = f["run_bytes"]
        return inside(memory, run, size) and inside(buffer, run, arch.ub_bytes)
    if unit is Unit.WEIGHTS:
        span = _span(
            f["address"], (f["n_count"], f["n_stride"]), (f["outer_count"], f["outer_stride"]),
            (f["inner_count"], f["inner_stride"]), (arch.rows, f["row_pitch"]),
        )
        return inside(span, arch.columns, program.weight_memory_bytes)
    if unit is Unit.MATRIX:
        span = _span(
            f["ub_address"], (f["n_count"], f["n_step"]),
            (f["k0_count"], f["k0_address_step"]), (f["k1_count"], f["k1_step"]),
            (f["k2_count"], f["k2_step"]), (f["y_count"], f["y_address_step"]),
            (f["x_count"], f["x_step"]),
        )
        accumulators = _span(
            f["acc_address"], (f["n_count"], f["acc_n_step"]),
            (f["y_count"] * f["x_count"], 1),
        )
        return inside(span, arch.rows, arch.ub_bytes) and inside(
            accumulators, 1, arch.accumulator_rows
        )
    groups = f["n_count"]
    source = _span(
        f["a_address"], (groups, f["a_n_step"]), (f["y_count"], f["a_y_step"]),
        (f["x_count"], f["a_x_step"]), (f["ky_count"], f["a_ky_step"]),
        (f["kx_count"], f["a_kx_step"]),
    )
    target = _span(
        f["out_address"], (groups, f["out_n_step"]), (f["y_count"], f["out_y_step"]),
        (f["x_count"], f["out_x_step"]),
    )
    fits = inside(target, arch.columns, arch.ub_bytes)
    if row[KIND] == REQUANTIZE:
        parameters = _span(f["parameter_address"], (groups, 8 * arch.columns))
        fits = fits and inside(parameters, 8 * arch.columns, arch.ub_bytes)
    if row[KIND] != FILL:
        size = arch.ub_bytes if f["source_ub"] else arch.accumulator_rows
        fits = fits and inside(source, arch.columns if f["source_ub"] else 1, size)
    return fits


def machine_figures(arch: Arch) -> np.ndarray:
    """The figures of `arch` that the stepper reads, int64, in the order of `stepper.M_*`."""
    weight, host = arch.weight_port, arch.host_port
    return np.array(
        [
            arch.rows, arch.columns, arch.ub_bytes, arch.bank_bytes.bit_length() - 1,
            arch.ub_width_bytes, arch.accumulator_rows, arch.weight_fifo_tiles, arch.burst_bytes,
            arch.vector_slot_cycles, arch.vector_latency_cycles, arch.queue_depth,
            arch.fetch_buffer_instructions, arch.inflight_instructions, arch.token_limit,
            arch.vector_write_rows, arch.store_buffer_beats, arch.matrix_latency_cycles,
            host.width_bytes, weight.width_bytes, host.beat_cost, weight.beat_cost,
            host.credit_income, weight.credit_income, host.credit_cap, weight.credit_cap,
            host.latency_cycles, weight.latency_cycles,
        ],
        np.int64,
    )
