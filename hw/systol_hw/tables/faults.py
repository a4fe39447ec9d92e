"""The units and the faults of the machine: one table for RTL, simulators and documentation."""

import enum
from dataclasses import dataclass


class Unit(enum.IntEnum):
    """The units; of faults in one cycle, the lowest number is reported."""

    CONTROL = 0
    LOAD = 1
    STORE = 2
    WEIGHTS = 3
    MATRIX = 4
    VECTOR = 5


class FaultCause(enum.IntEnum):
    """Why the machine stopped."""

    ILLEGAL_INSTRUCTION = 1
    """Unknown opcode, reserved bits set, a field out of its range, or no instruction before the
    end of the program. Reported by CONTROL in the cycle in which it would be dispatched."""
    UNSUPPORTED = 2
    """Declared by the instruction table and not built into this machine. Reported by CONTROL."""
    ADDRESS = 3
    """An access outside the unified buffer, the accumulators, weight memory or a host window."""
    TOKEN_OVERFLOW = 4
    """A signal that would take its token counter past `Arch.token_limit`."""
    WATCHDOG = 5
    """No instruction was dispatched, started or ended for as many cycles as the limit says."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault report, equal on every executor that counts cycles.

    `pc` is the index of the faulting instruction (for WATCHDOG, of the next one to dispatch);
    `cycle` is the cycle in which the fault was found, counted from 0. The numpy reference counts
    no cycles and reports `cycle` = -1.
    """

    cause: FaultCause
    unit: Unit
    pc: int
    cycle: int

    def __str__(self) -> str:
        name = self.cause.name.lower().replace("_", " ")
        return f"{name} in {self.unit.name.lower()} at pc {self.pc}, cycle {self.cycle}"
