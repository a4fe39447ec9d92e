"""Units, states, causes, amounts and figures as the numbers that the compiled stepper works with.

numba compiles plain numbers: each is taken from the table that declares it, by name.
"""

from collections.abc import Iterable

from systol_hw.tables.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.timing.state.table_columns import HOST_PORT, WEIGHT_PORT

CONTROL, LOAD, STORE = int(Unit.CONTROL), int(Unit.LOAD), int(Unit.STORE)
WEIGHTS, MATRIX, VECTOR = int(Unit.WEIGHTS), int(Unit.MATRIX), int(Unit.VECTOR)
UNITS = len(Unit)
FETCH = CONTROL
"""As a requester at the weight port, fetch takes control's place."""


def _state(name: str, *units: Unit) -> int:
    """The code of state `name`, which must be the same for all of `units`."""
    (code,) = {s.code for unit in units for s in UNIT_STATES[unit] if s.name == name}
    return code


def _states_by_unit(name: str, of: Iterable[Unit]) -> int:
    """What, added to a unit's number, is the code of state `name` of that unit, in all of `of`."""
    (base,) = {
        state.code - unit
        for counted in of for unit in _WORKERS for state in UNIT_STATES[counted]
        if state.name == name.format(unit.name.lower())
    }
    return base


def amount_row(unit: Unit, name: str) -> int:
    """Row of a unit's amount."""
    (row,) = (i for i, a in enumerate(AMOUNTS) if (a.unit, a.name) == (unit, name))
    return row


def _amount_by_port(unit: Unit) -> int:
    """What, added to a memory port's number, is the row of what passes there."""
    (base,) = {
        amount_row(unit, name) - port
        for name, port in (("host_bytes", HOST_PORT), ("weight_bytes", WEIGHT_PORT))
    }
    return base


def _scalar(name: str) -> int:
    """Index of a whole run's figure."""
    (index,) = (scalar.index for scalar in SCALARS if scalar.name == name)
    return index


_WORKERS = tuple(unit for unit in Unit if unit is not Unit.CONTROL)
IDLE, BUSY, START = (_state(name, *_WORKERS) for name in ("idle", "busy", "start"))
WAIT_DRAIN, WAIT_INFLIGHT, FLIGHT = (
    _state(name, *_WORKERS) for name in ("wait_drain", "wait_inflight", "flight")
)
WAIT_UNIT = _states_by_unit("wait_{}", _WORKERS)
"""With a unit's number: the wait for its token."""
WAIT_PORT = _state("wait_port", Unit.LOAD, Unit.WEIGHTS)
WAIT_BANK = _state("wait_bank", Unit.STORE, Unit.WEIGHTS, Unit.MATRIX, Unit.VECTOR)
WAIT_BUFFER = _state("wait_buffer", Unit.STORE, Unit.VECTOR)
WAIT_FIFO = _state("wait_fifo", Unit.WEIGHTS)
WAIT_TILE, WAIT_SHIFT = _state("wait_tile", Unit.MATRIX), _state("wait_shift", Unit.MATRIX)
WAIT_LANES = _state("wait_lanes", Unit.VECTOR)
CONTROL_BUSY, WAIT_FETCH, WAIT_QUIET, WAIT_HOST = (
    _state(name, Unit.CONTROL) for name in ("busy", "wait_fetch", "wait_quiet", "wait_host")
)
FULL = _states_by_unit("full_{}", (Unit.CONTROL,))
"""With a unit's number: control waits for a place in its queue."""

ILLEGAL_INSTRUCTION, ADDRESS = int(FaultCause.ILLEGAL_INSTRUCTION), int(FaultCause.ADDRESS)
TOKEN_OVERFLOW, WATCHDOG = int(FaultCause.TOKEN_OVERFLOW), int(FaultCause.WATCHDOG)

A_FETCH = amount_row(Unit.CONTROL, "fetch_bytes")
A_LOAD, A_STORE = _amount_by_port(Unit.LOAD), _amount_by_port(Unit.STORE)
"""With a memory port's number."""
A_WEIGHTS = amount_row(Unit.WEIGHTS, "weight_bytes")
A_WEIGHTS_UB = amount_row(Unit.WEIGHTS, "ub_bytes")
A_USEFUL = amount_row(Unit.MATRIX, "useful_macs")
A_PADDING = amount_row(Unit.MATRIX, "padding_macs")
A_ELEMENTS = amount_row(Unit.VECTOR, "elements")

P_CYCLES, P_USED = _scalar("cycles"), _scalar("peak_weight_fifo")
P_BUFFERED, P_HELD = _scalar("peak_store_buffer"), _scalar("peak_vector_rows")
(P_QUEUE,) = {_scalar(f"peak_queue_{unit.name.lower()}") - unit for unit in _WORKERS}
"""With a unit's number: the peak of its queue."""
