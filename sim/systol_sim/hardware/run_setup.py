"""What a run of the RTL is told and asked, the same under Verilator and Amaranth's simulator."""

from collections.abc import Iterable, Sequence

import numpy as np

from systol_hw.arch import TAGS, MemoryPort
from systol_hw.errors import ConfigurationError
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS, SCALAR_GROUP, SCALARS, UNIT_STATES
from systol_hw.tables.registers import (
    REGISTER_BY_NAME,
    default_watchdog_cycles,
    latency_limit,
    port_values,
)
from systol_sim.results import Counters


def register_writes(
    program: Program,
    *,
    watchdog_cycles: int | None = None,
    weight_port: MemoryPort | None = None,
    host_port: MemoryPort | None = None,
) -> list[tuple[int, int]]:
    """Address and value of every register that `program` needs.

    Parameters
    ----------
    program
    watchdog_cycles
        Cycles without progress after which the machine faults, at least 1; None takes the default
        for the ports as they are set.
    weight_port, host_port
        Other bandwidths and latencies than those of the program's machine.

    Raises
    ------
    ConfigurationError
        If a register cannot hold its value, or a port cannot be made to behave as asked.
    """
    arch = program.arch
    if watchdog_cycles is None:
        watchdog_cycles = default_watchdog_cycles(
            weight_port or arch.weight_port, host_port or arch.host_port
        )
    values = {
        "code_address": program.code_address,
        "code_length": len(program.code),
        "weight_bytes": program.weight_memory_bytes,
        "watchdog_cycles": watchdog_cycles,
    }
    values |= {
        f"window_bytes_{index}": window.size_bytes for index, window in enumerate(program.windows)
    }
    built = {"weight": arch.weight_port, "host": arch.host_port}
    for port, asked in (("weight", weight_port), ("host", host_port)):
        memory = built[port] if asked is None else asked
        if memory.width_bytes != built[port].width_bytes:
            raise ConfigurationError(
                f"{port}_port: width_bytes is built into the machine as "
                f"{built[port].width_bytes}; it cannot be {memory.width_bytes} in a run"
            )
        limit = latency_limit(built[port].latency_cycles)
        if memory.latency_cycles > limit:
            raise ConfigurationError(
                f"{port}_port: latency_cycles must be at most {limit} on a machine built for "
                f"{built[port].latency_cycles}, not {memory.latency_cycles}"
            )
        values |= port_values(port, memory)
    writes = []
    for name, value in values.items():
        register = REGISTER_BY_NAME[name]
        least = 1 if name == "watchdog_cycles" else 0
        if not least <= value < 1 << register.width:
            raise ConfigurationError(
                f"{name} must lie in {least}..2**{register.width} - 1, not {value}"
            )
        writes.append((register.address, value))
    return writes


def counter_addresses(tags: Iterable[int] = range(TAGS)) -> list[tuple[int, int, int]]:
    """Group, tag and code of every counter that is declared, for these debug tags."""
    tags = list(tags)
    states = [
        (int(unit), tag, state.code)
        for unit, states in UNIT_STATES.items()
        for tag in tags
        for state in states
    ]
    amounts = [(amount.group, tag, 0) for amount in AMOUNTS for tag in tags]
    return states + amounts + [(SCALAR_GROUP, 0, scalar.index) for scalar in SCALARS]


def counters_from(
    addresses: Sequence[tuple[int, int, int]], values: Iterable[int]
) -> Counters:
    """`Counters` with `values` at `addresses` and zero elsewhere."""
    counters = Counters.zero()
    row = {amount.group: index for index, amount in enumerate(AMOUNTS)}
    for (group, tag, code), value in zip(addresses, values, strict=True):
        if group == SCALAR_GROUP:
            counters.scalars[code] = value
        elif group in row:
            counters.amounts[row[group], tag] = value
        else:
            counters.states[group, tag, code] = value
    return counters


def rows_of_accumulators(data: np.ndarray, columns: int) -> np.ndarray:
    """int32 (rows, columns) from the accumulators' bytes."""
    return data.view(np.int32).reshape(-1, columns)


def used_tags(program: Program) -> list[int]:
    """Debug tags that `program` may charge: 0, and those of its tag instructions."""
    operation = OPERATION_BY_NAME["tag"]
    words = (int.from_bytes(row.tobytes(), "little") for row in program.code)
    tags = (operation.field("tag").extract(w) for w in words if w & 0xFF == operation.opcode)
    return sorted({0, *tags})
