"""The performance counters: one table for RTL, simulators, JSON and documentation.

Every cycle each unit is in exactly one *state* and adds 1 to that state's counter under one debug
tag, so a unit's states sum to the run's cycles. *Amounts* add a number of bytes, operations or
elements under a tag. *Scalars* belong to the whole run. docs/timing.md section 8 fixes all of them.
"""

from dataclasses import dataclass

from systol_hw.tables.faults import Unit

STATES = 16
"""Codes reserved for the states of one unit."""


@dataclass(frozen=True, kw_only=True)
class State:
    """One state of a unit; `code` is its place in the unit's counter memory."""

    code: int
    name: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A per-tag sum. `group` is its place in the counter address map (states are groups 0..5).

    `formula` gives the sum over an instruction of its unit, from the instruction's fields alone
    where they decide it.
    """

    group: int
    unit: Unit
    name: str
    measure: str
    doc: str
    formula: str
    depends_on_values: bool = False


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A whole-run figure; `index` is its place in group 31."""

    index: int
    name: str
    measure: str
    doc: str
    formula: str


_WAITS = tuple(
    State(
        code=2 + unit,
        name=f"wait_{unit.name.lower()}",
        doc=f"the queue's head waits for a token of {unit.name.lower()}",
    )
    for unit in Unit
    if unit is not Unit.CONTROL
)


def _unit_states(unit: Unit, busy: str, *special: State) -> tuple[State, ...]:
    return (
        State(code=0, name="idle", doc="nothing queued, nothing active, nothing in flight"),
        State(code=1, name="busy", doc=busy),
        State(code=2, name="start", doc="an instruction starts (one cycle each)"),
        *(s for s in _WAITS if s.name != f"wait_{unit.name.lower()}"),
        State(
            code=8,
            name="wait_drain",
            doc="the head waits until its own unit's earlier instructions have ended",
        ),
        State(code=9, name="wait_inflight", doc="the limit of instructions in flight is reached"),
        *special,
        State(code=14, name="flight", doc="nothing queued or active; effects still in flight"),
    )


_PORT = State(code=10, name="wait_port", doc="its beat waits for the memory port (rank or pace)")
_BANK = State(code=11, name="wait_bank", doc="its access lost a bank of a buffer")

UNIT_STATES: dict[Unit, tuple[State, ...]] = {
    Unit.CONTROL: (
        State(code=1, name="busy", doc="an instruction is dispatched or executed by control"),
        State(code=2, name="wait_fetch", doc="no instruction has arrived"),
        *(
            State(
                code=2 + unit,
                name=f"full_{unit.name.lower()}",
                doc=f"the next instruction's queue, {unit.name.lower()}, is full",
            )
            for unit in Unit
            if unit is not Unit.CONTROL
        ),
        State(code=8, name="wait_quiet",
              doc="barrier, halt or sync_host waits until every unit is quiet"),
        State(code=9, name="wait_host", doc="sync_host waits for the host's acknowledgement"),
    ),
    Unit.LOAD: _unit_states(Unit.LOAD, "a beat is issued to a memory port", _PORT),
    Unit.STORE: _unit_states(
        Unit.STORE,
        "a beat is read from the unified buffer",
        _BANK,
        State(code=12, name="wait_buffer", doc="the store buffer is full"),
    ),
    Unit.WEIGHTS: _unit_states(
        Unit.WEIGHTS,
        "a beat is issued to the weight port, or a line is read from the unified buffer",
        _PORT,
        _BANK,
        State(code=12, name="wait_fifo", doc="the weight FIFO has no room for the next tile"),
    ),
    Unit.MATRIX: _unit_states(
        Unit.MATRIX,
        "a row enters the array: array active",
        _BANK,
        State(code=12, name="wait_tile", doc="weight stall: the next tile has not arrived"),
        State(code=13, name="wait_shift", doc="weight shift: the next tile is shifting in"),
    ),
    Unit.VECTOR: _unit_states(
        Unit.VECTOR,
        "a parameter or table read, an access or a pass is performed, or one occupies the lanes",
        _BANK,
        State(code=12, name="wait_buffer", doc="the write buffer is full"),
        State(code=13, name="wait_lanes", doc="waits until the lanes have emptied"),
    ),
}
"""The states of each unit, by code. STORE and VECTOR never report a lost bank for writes: a write
that waits fills the buffer behind it."""

AMOUNTS: tuple[Amount, ...] = (
    Amount(group=6, unit=Unit.CONTROL, name="fetch_bytes", measure="bytes",
           doc="instruction bytes, by beats issued on the weight port",
           formula="64 (the port's width x beats issued for the fetch)"),
    Amount(group=7, unit=Unit.LOAD, name="host_bytes", measure="bytes",
           doc="live bytes read from host memory",
           formula="run_bytes * count0 * count1"),
    Amount(group=8, unit=Unit.LOAD, name="weight_bytes", measure="bytes",
           doc="live bytes read from weight memory into the unified buffer",
           formula="run_bytes * count0 * count1"),
    Amount(group=9, unit=Unit.STORE, name="host_bytes", measure="bytes",
           doc="live bytes written to host memory",
           formula="run_bytes * count0 * count1"),
    Amount(group=10, unit=Unit.STORE, name="weight_bytes", measure="bytes",
           doc="live bytes written to weight memory from the unified buffer",
           formula="run_bytes * count0 * count1"),
    Amount(group=11, unit=Unit.WEIGHTS, name="weight_bytes", measure="bytes",
           doc="live weight bytes read from weight memory into the weight FIFO",
           formula="sum over tiles of k_live * n_live"),
    Amount(group=12, unit=Unit.MATRIX, name="useful_macs", measure="MACs",
           doc="live rows times live columns, over the rows that enter the array",
           formula="sum over tiles of y_count * x_count * k_live * n_live"),
    Amount(group=13, unit=Unit.MATRIX, name="padding_macs", measure="MACs",
           doc="those useful MACs whose activation is a pad byte",
           formula="sum over issued rows of (k_live - bytes inside the window) * n_live"),
    Amount(group=14, unit=Unit.MATRIX, name="overflows", measure="sums",
           doc="accumulations that wrapped in 32 bits",
           formula="numerics.md 2, over all columns of every issued row", depends_on_values=True),
    Amount(group=15, unit=Unit.VECTOR, name="saturations", measure="elements",
           doc="results outside the range of the output's width",
           formula="numerics.md 4 and 5, over live channels of every output row",
           depends_on_values=True),
    Amount(group=16, unit=Unit.VECTOR, name="overflows", measure="elements",
           doc="bias additions that wrapped in 32 bits",
           formula="numerics.md 4, over live channels of every output row", depends_on_values=True),
    Amount(group=17, unit=Unit.VECTOR, name="elements", measure="elements",
           doc="elements of the output rows whose last tap was performed",
           formula="y_count * x_count * sum over groups of n_live"),
    Amount(group=18, unit=Unit.WEIGHTS, name="ub_bytes", measure="bytes",
           doc="live weight bytes read from the unified buffer into the weight FIFO",
           formula="sum over tiles of k_live * n_live"),
)
"""The per-tag sums, by counter group."""

SCALARS: tuple[Scalar, ...] = (
    Scalar(index=0, name="cycles", measure="cycles", doc="cycles from start to halt or fault",
           formula="cycle of the halt or fault + 1"),
    Scalar(index=1, name="late_cycles", measure="cycles",
           doc="cycles by which real memories and a real host missed the schedule",
           formula="sum over cycles of the late ones among the weight port, the host port and "
           "sync_host (timing.md 8.5)"),
    Scalar(index=2, name="peak_queue_load", measure="instructions", doc="fullest load queue",
           formula="max over cycles of instructions in the queue"),
    Scalar(index=3, name="peak_queue_store", measure="instructions", doc="fullest store queue",
           formula="max over cycles of instructions in the queue"),
    Scalar(index=4, name="peak_queue_weights", measure="instructions", doc="fullest weights queue",
           formula="max over cycles of instructions in the queue"),
    Scalar(index=5, name="peak_queue_matrix", measure="instructions", doc="fullest matrix queue",
           formula="max over cycles of instructions in the queue"),
    Scalar(index=6, name="peak_queue_vector", measure="instructions", doc="fullest vector queue",
           formula="max over cycles of instructions in the queue"),
    Scalar(index=7, name="peak_weight_fifo", measure="tiles", doc="most tiles reserved or held",
           formula="max over cycles of used slots (timing.md 6.3, 6.4)"),
    Scalar(index=8, name="peak_store_buffer", measure="beats", doc="fullest store buffer",
           formula="max over cycles of buffered beats (timing.md 6.2)"),
    Scalar(index=9, name="peak_vector_rows", measure="rows", doc="fullest vector write buffer",
           formula="max over cycles of held rows (timing.md 7.4)"),
)
"""The whole-run figures, by index in group 31 (`SCALAR_GROUP`)."""

SCALAR_GROUP = 31
"""The counter group that holds `SCALARS`."""
COUNTER_BITS = 48
"""Width of every counter; counters wrap."""
