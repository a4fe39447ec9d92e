"""What a set of random programs has reached, and what it has not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from systol_hw.arch import Arch
from systol_hw.isa import OPERATION_BY_NAME, OPERATION_BY_OPCODE
from systol_hw.isa.operations import OPERATIONS
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.fuzz.modes import mode_names, mode_of
from systol_sim.random_programs.faulting_ties import tie_names
from systol_sim.random_programs.generate import LONG_CYCLES
from systol_sim.results import RunResult

UNREACHABLE = frozenset({
    # Only a real memory that is slower than declared makes a cycle late.
    "scalar late_cycles",
})
"""Goals that no program can reach on an exact machine."""
_SYNC_HOST = OPERATION_BY_NAME["sync_host"].opcode
_FULL = {
    "peak_weight_fifo": "weight_fifo_tiles",
    "peak_store_buffer": "store_buffer_beats",
    "peak_vector_rows": "vector_write_rows",
    **{f"peak_queue_{unit.name.lower()}": "queue_depth" for unit in Unit if unit},
}


def goals() -> tuple[str, ...]:
    """Everything that random programs should reach, by name."""
    names = [f"operation {o.name}" for o in OPERATIONS if o.supported]
    names += mode_names()
    for unit, states in UNIT_STATES.items():
        names += [f"state {unit.name.lower()}.{state.name}" for state in states]
    names += [f"amount {amount.unit.name.lower()}.{amount.name}" for amount in AMOUNTS]
    names += [f"scalar {scalar.name}" for scalar in SCALARS]
    names += [f"full {name.removeprefix('peak_')}" for name in _FULL]
    names += [f"full, then empty {name.removeprefix('peak_')}" for name in _FULL]
    names += [
        f"fault {cause.name.lower()} in {unit.name.lower()}" for cause, unit in possible_faults()
    ]
    names += [_IN_SYNC_HOST, _OF_SET_CONFIG]
    names += [f"fault {_TIE} {name}" for name in tie_names()]
    return tuple(name for name in names if name not in UNREACHABLE)


def possible_faults() -> list[tuple[FaultCause, Unit]]:
    """Every cause with every unit that can report it.

    UNSUPPORTED is none of them as long as the table declares nothing that is not built.
    """
    units: list[Unit] = [unit for unit in Unit if unit is not Unit.CONTROL]
    found: list[tuple[FaultCause, Unit]] = []
    for cause in FaultCause:
        if cause in (FaultCause.ADDRESS, FaultCause.TOKEN_OVERFLOW):
            found += [(cause, unit) for unit in units]
        elif cause is not FaultCause.UNSUPPORTED:
            found.append((cause, Unit.CONTROL))
    return found


_IN_SYNC_HOST = "fault watchdog in sync_host"
_OF_SET_CONFIG = "fault watchdog by a limit of set_config"
_TIE = "in one cycle:"
_TOTALS = [
    (f"state {unit.name.lower()}.{state.name}", int(unit), state.code)
    for unit, states in UNIT_STATES.items()
    for state in states
]


@dataclass(kw_only=True)
class Coverage:
    """How often each thing was reached; `goals()` and whatever an executor reports of its own."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, program: Program, result: RunResult) -> None:
        """Note one run by an executor that counts cycles."""
        counts = self.counts
        if result.fault is not None:
            self._fault(program, result)
        else:
            codes = np.bincount(program.code[:, 0])
            for opcode in np.flatnonzero(codes):
                name = OPERATION_BY_OPCODE[int(opcode)].name
                counts[f"operation {name}"] += int(codes[opcode])
            for row in program.code:
                mode = mode_of(row.tobytes())
                if mode is not None:
                    counts[mode] += 1
        for name, value in result.coverage.items():
            if isinstance(value, int):
                counts[f"event {name}"] += value
        if result.counters is None:
            return
        states = result.counters.states.sum(axis=1).tolist()
        for name, unit, code in _TOTALS:
            counts[name] += states[unit][code]
        totals = result.counters.amounts.sum(axis=1).tolist()
        for amount, total in zip(AMOUNTS, totals, strict=True):
            counts[f"amount {amount.unit.name.lower()}.{amount.name}"] += max(0, total)
        self._scalars(result, program.arch)

    def add_tie(self, name: str) -> None:
        """Note a run whose last cycle has two faults, `name` of `tie_names`."""
        self.counts[f"fault {_TIE} {name}"] += 1

    def _fault(self, program: Program, result: RunResult) -> None:
        fault, counts = result.fault, self.counts
        assert fault is not None
        counts[f"fault {fault.cause.name.lower()} in {fault.unit.name.lower()}"] += 1
        if fault.cause is not FaultCause.WATCHDOG or result.times is None:
            return
        if fault.pc < len(program.code) and program.code[fault.pc, 0] == _SYNC_HOST:
            assert result.counters is not None
            counts[_IN_SYNC_HOST] += int(result.counters.state(Unit.CONTROL, "wait_host") > 0)
        # Without a limit of its own a program goes on for as long as the longest wait.
        quiet = fault.cycle - int(result.times.max(initial=0))
        counts[_OF_SET_CONFIG] += int(quiet < LONG_CYCLES)

    def _scalars(self, result: RunResult, arch: Arch) -> None:
        assert result.counters is not None
        scalars = result.counters.scalars.tolist()
        for scalar in SCALARS:
            value = scalars[scalar.index]
            self.counts[f"scalar {scalar.name}"] += value
            limit = _FULL.get(scalar.name)
            if limit is not None and value == getattr(arch, limit):
                name = scalar.name.removeprefix("peak_")
                self.counts[f"full {name}"] += 1
                # Nothing is left in a queue or buffer when a program halts.
                self.counts[f"full, then empty {name}"] += int(result.fault is None)

    def merge(self, other: "Coverage") -> None:
        """Add the counts of `other`."""
        for name, count in other.counts.items():
            self.counts[name] += count

    def missing(self) -> list[str]:
        """Goals, and events that the executor knows of, that were never reached."""
        known: Iterable[str] = dict.fromkeys([*goals(), *self.counts])
        return [n for n in known if not self.counts[n] and n not in UNREACHABLE]

    def rows(self) -> list[tuple[str, int]]:
        """What was reached and how often, in the order of the goals."""
        names = dict.fromkeys([*goals(), *self.counts])
        return [(name, self.counts[name]) for name in names if self.counts[name]]

    def format(self) -> str:
        """A table: each name with its count, and what was never reached at the end."""
        reached, missing = self.rows(), self.missing()
        width = max((len(name) for name, _ in reached), default=0)
        lines = [f"{name:<{width}}  {count}" for name, count in reached]
        lines.append(f"{len(reached)} reached, {len(missing)} never reached")
        return "\n".join(lines + [f"never: {name}" for name in missing])
