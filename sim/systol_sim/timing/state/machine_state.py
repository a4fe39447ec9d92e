"""What a run keeps from cycle to cycle: one record, its rings, and the log of a program.

docs/timing.md gives the rules; the stepper's modules share these names.
"""

from typing import Any

import numpy as np

from systol_hw.arch import ALL_WINDOWS, INSTRUCTION_BYTES
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS, SCALARS, STATES
from systol_sim.timing.state.codes import UNITS
from systol_sim.timing.state.events import COVERAGE_NAMES
from systol_sim.timing.state.table_columns import COLUMNS

MASK = 0xFFFFFFFF
"""Addresses are modulo 2**32 (docs/timing.md 1.3)."""
CODE_BYTES = INSTRUCTION_BYTES

RING = 2048
"""Cycles ahead that a claim or a delivery may lie, a power of two: more than any latency."""
HISTORY = 128
"""Length of the small rings, a power of two: more than any buffer's depth."""
NEVER = 1 << 62

COUNTED_TAGS = 1024
"""Tags that the stepper can count by: the machine's own come first; `tag_windows` uses all."""

# Columns of the rings: beats of the store buffer, held rows, claims of accumulator banks;
# of the log.
B_FROM, B_ENDS_BURST, B_PORT, B_LAST_OF = range(4)
H_FROM, H_BANKS, H_LAST = range(3)
K_FIRST, K_LAST, K_BANK = range(3)
L_START, L_END, L_TAG, L_INTERRUPT = range(4)

WALKER_PLACES = 24

_FIGURES = (
    "rows", "columns", "ub_bytes", "bank_shift", "ub_width", "acc_rows", "fifo_tiles", "burst",
    "slot", "vector_latency", "queue", "fetch_buffer", "inflight", "token_limit", "write_rows",
    "store_beats", "matrix_latency", "weight_bytes", "code_address", "code_length",
    "host_watchdog",
)
_PORT_FIGURES = ("width", "cost", "income", "cap", "latency")
_CONTROL = (
    "next_pc",  # of the next instruction to leave control
    "tag",  # charged by control and by what it dispatches
    "seen",  # instructions that control has seen
    "host_until",  # cycle in which the host's acknowledgement is due, or -1
    "status",  # the status word
    "watchdog",  # the limit, and the cycles without progress
    "idle_cycles",
    "fetch_pc",  # the instruction being fetched, and its bytes so far
    "fetch_done",
    "interrupt_count",
)
_COUNTS = (
    "store_in", "store_out", "tiles_loaded", "tiles_shifted", "tiles_freed", "tiles_reserved",
    "held_in", "held_out", "claims_in", "claims_out",
)
_MOMENTS = (
    "plane_held",  # the shadow plane is not empty, and the cycle from which it is full
    "plane_full_from",
    "plane_columns",  # live columns of the tile in the shadow plane, of the one in use
    "row_columns",
    "entry_free",  # the cycle from which the lanes' entry is free, and the lanes are empty
    "lanes_empty",
)
_CYCLE = (
    "acted",  # anything happened; an instruction left control, started or ended
    "progress",
    "halts",
    "dispatches",
    "fault_unit",
    "fault_cause",
    "fault_pc",
    "used",  # occupancies at the beginning of the cycle
    "buffered",
    "held",
    "store_banks",  # banks claimed by reads
    "weights_banks",
    "matrix_banks",
    "load_live",  # live bytes of the beats presented
    "weights_live",
    "fetch_live",
    "stop",  # not 0: the host has lost interest
)


def _fields() -> list[tuple[Any, ...]]:
    """The record's fields: scalars, then arrays by unit or port, rings, results."""
    fields: list[tuple[Any, ...]] = [
        (name, np.int64) for name in _FIGURES + _CONTROL + _COUNTS + _MOMENTS + _CYCLE
    ]
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(_PORT_FIGURES, (2,)),
        "window_bytes": (ALL_WINDOWS,),
        "active": (UNITS,),  # the active instruction, or -1
        "dispatched": (UNITS,),
        "started": (UNITS,),
        "ended": (UNITS,),
        "latest": (UNITS,),  # the instruction started last
        "code": (UNITS,),  # state and tag of this cycle
        "charge": (UNITS,),
        "head": (UNITS,),  # what starts in this cycle, or -1
        "row": (UNITS, COLUMNS),  # table row of the instruction started last
        "walkers": (UNITS, WALKER_PLACES),
        "ends": (UNITS, HISTORY),  # end cycles of instructions in flight; NEVER if not known yet
        "tokens": (UNITS, UNITS),  # by producer and consumer
        "credits": (2,),
        "owner": (2,),  # the requester whose burst goes on, or -1
        "granted": (2,),
        "requests": (2, UNITS),  # whether a beat is presented, and whether it ends its burst
        "burst_ends": (2, UNITS),
        "fetch_ready": (HISTORY,),  # from when control can see an instruction
        "load_time": (RING,),  # cycle of a delivery that Load writes, and its banks
        "load_banks": (RING,),
        "claims": (RING, 3),  # runs of cycles in which the matrix claims a bank, ascending
        "beats": (HISTORY, 4),  # the store buffer
        "rows_held": (HISTORY, 3),
        "tile_ready": (HISTORY,),  # from when a tile can shift; its live columns
        "tile_columns": (HISTORY,),
        "boundary": (32,),  # systol_sim.timing.streams.period
        "rhythm": (HISTORY,),  # systol_sim.timing.streams.outputs
        "states": (UNITS, COUNTED_TAGS, STATES),
        "amounts": (len(AMOUNTS), COUNTED_TAGS),
        "scalars": (len(SCALARS),),
        "coverage": (len(COVERAGE_NAMES),),
    }
    return fields + [(name, np.int64, shape) for name, shape in shapes.items()]


MACHINE = np.dtype(_fields())
"""All that a run keeps from cycle to cycle, and its results."""


def new_machine(
    program: Program, code_length: int, watchdog_cycles: int
) -> np.ndarray:
    """The machine of `program` in its first cycle: `MACHINE` of shape (1,)."""
    arch = program.arch
    array = np.zeros(1, MACHINE)
    m = array[0]
    figures = (
        arch.rows, arch.columns, arch.ub_bytes, arch.bank_bytes.bit_length() - 1,
        arch.ub_width_bytes, arch.accumulator_rows, arch.weight_fifo_tiles, arch.burst_bytes,
        arch.vector_slot_cycles, arch.vector_latency_cycles, arch.queue_depth,
        arch.fetch_buffer_instructions, arch.inflight_instructions, arch.token_limit,
        arch.vector_write_rows, arch.store_buffer_beats, arch.matrix_latency_cycles,
        program.weight_memory_bytes, program.code_address, code_length, watchdog_cycles,
    )
    for name, value in zip(_FIGURES, figures, strict=True):
        m[name] = value
    ports = (arch.host_port, arch.weight_port)
    m["width"] = [port.width_bytes for port in ports]
    m["cost"] = m["credits"] = [port.beat_cost for port in ports]
    m["income"] = [port.credit_income for port in ports]
    m["cap"] = [port.credit_cap for port in ports]
    m["latency"] = [port.latency_cycles for port in ports]
    m["window_bytes"][: len(program.windows)] = [w.size_bytes for w in program.windows]
    m["watchdog"] = watchdog_cycles
    m["host_until"] = -1
    for name in ("active", "latest", "owner", "load_time"):
        m[name] = -1
    return array
