"""What a run gives back, the same from every executor."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from systol_hw.arch import TAGS, Arch
from systol_hw.tables.counters import AMOUNTS, SCALARS, STATES, UNIT_STATES
from systol_hw.tables.faults import Fault, Unit


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Counters:
    """All counters of one run.

    Parameters
    ----------
    states
        int64 (6 units, 16 tags, 16 state codes): cycles.
    amounts
        int64 (len(AMOUNTS), 16 tags), in the order of `AMOUNTS`; -1 throughout a row where a run
        without values cannot know it.
    scalars
        int64 (len(SCALARS),), in the order of `SCALARS`.
    """

    states: np.ndarray
    amounts: np.ndarray
    scalars: np.ndarray

    @classmethod
    def zero(cls) -> "Counters":
        """Counters that are all zero."""
        return cls(
            states=np.zeros((len(Unit), TAGS, STATES), np.int64),
            amounts=np.zeros((len(AMOUNTS), TAGS), np.int64),
            scalars=np.zeros(len(SCALARS), np.int64),
        )

    def __repr__(self) -> str:
        return f"Counters({self.cycles:,} cycles)"

    @property
    def cycles(self) -> int:
        """Cycles of the run."""
        return int(self.scalars[0])

    def state(self, unit: Unit, name: str, tag: int | None = None) -> int:
        """Cycles of `unit` in state `name`, under one tag or all."""
        code = next(s.code for s in UNIT_STATES[unit] if s.name == name)
        row = self.states[unit, :, code]
        return int(row.sum() if tag is None else row[tag])

    def amount(self, unit: Unit, name: str, tag: int | None = None) -> int:
        """The sum `name` of `unit`, under one tag or all."""
        index = next(i for i, a in enumerate(AMOUNTS) if a.unit is unit and a.name == name)
        row = self.amounts[index]
        return int(row.sum() if tag is None else row[tag])

    def differences(self, other: "Counters", *, values: bool = True) -> list[str]:
        """One line for each counter that differs; empty if all agree.

        With `values` false, amounts that depend on values are not compared.
        """
        lines = []
        # Comparing whole arrays first makes agreement, the usual case, cheap.
        for unit, states in UNIT_STATES.items():
            if np.array_equal(self.states[unit], other.states[unit]):
                continue
            for state in states:
                for tag in range(TAGS):
                    a, b = self.states[unit, tag, state.code], other.states[unit, tag, state.code]
                    if a != b:
                        lines.append(f"{unit.name.lower()}.{state.name} tag {tag}: {a} != {b}")
        for index, amount in enumerate(AMOUNTS):
            if amount.depends_on_values and not values:
                continue
            if np.array_equal(self.amounts[index], other.amounts[index]):
                continue
            for tag in range(TAGS):
                a, b = self.amounts[index, tag], other.amounts[index, tag]
                if a != b:
                    lines.append(f"{amount.unit.name.lower()}.{amount.name} tag {tag}: {a} != {b}")
        for scalar in SCALARS:
            a, b = self.scalars[scalar.index], other.scalars[scalar.index]
            if a != b:
                lines.append(f"{scalar.name}: {a} != {b}")
        return lines


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RunResult:
    """The outcome of one run of one program.

    Parameters
    ----------
    arch
        The machine.
    fault
        None if the program halted.
    windows
        Final host windows, uint8 each; undefined after a fault.
    counters
        None from executors that count no cycles (the reference).
    times
        int64 (instructions, 2): start and end cycle of each instruction, -1 where it did not
        happen; None from executors without cycles.
    interrupts
        Values of the interrupts raised, and of the host synchronizations, in order.
    status
        The status word at the end (`set_config` of register 1).
    memories
        Final `"ub"` uint8 (ub_bytes,), `"accumulators"` int32 (rows, columns), `"weight"` uint8;
        present where values were computed.
    coverage
        Figures of the simulator's own, such as arbitration losses; empty elsewhere.
    """

    arch: Arch
    fault: Fault | None
    windows: list[np.ndarray]
    counters: Counters | None
    times: np.ndarray | None
    interrupts: list[int]
    status: int = 0
    memories: dict[str, np.ndarray] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        end = "halted" if self.fault is None else str(self.fault)
        cycles = "" if self.counters is None else f", {self.counters.cycles:,} cycles"
        return f"RunResult({self.arch.name}, {end}{cycles})"
