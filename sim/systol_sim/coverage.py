"""What a set of random programs has reached, and what it has not."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from systol_hw.arch import PRESETS, Arch
from systol_hw.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.faults import FaultCause, Unit
from systol_hw.isa import OPERATION_BY_NAME, OPERATION_BY_OPCODE
from systol_hw.operations import OPERATIONS
from systol_hw.program import Program
from systol_sim.results import RunResult

UNREACHABLE = frozenset({
    # Store ranks first at the unified buffer, so it never loses a bank (docs/timing.md 6.2).
    "state store.wait_bank",
    # Only a real memory that is slower than declared makes a cycle late.
    "scalar late_cycles",
    # Every operation and every value of the table is built.
    "fault unsupported in control",
})
"""Goals that no program can reach on an exact machine."""
_FULL = {
    "peak_weight_fifo": "weight_fifo_tiles",
    "peak_store_buffer": "store_buffer_beats",
    "peak_vector_rows": "vector_write_rows",
    **{f"peak_queue_{unit.name.lower()}": "queue_depth" for unit in Unit if unit},
}


_MODES: Mapping[str, tuple[str, ...]] = {
    "set_config": ("register",),
    "read_weights": ("transpose",),
    "read_weights_ub": ("transpose",),
    "matmul": ("accumulate", "unsigned_activations", "accumulate_shift"),
    "requantize": ("source_ub", "a_width", "reduce", "width"),
    "copy": ("source_ub", "a_width", "reduce", "width"),
    "fill": ("width",),
    "binary": ("function", "a_width", "b_width", "width"),
    "table": ("a_width", "table_width", "width"),
}
"""Fields whose values in all combinations are an operation's modes."""


def _mode(name: str, values: Mapping[str, int]) -> str:
    # An operand in the accumulators has no width of its own.
    fields = [f for f in _MODES[name] if f != "a_width" or values.get("source_ub", 1)]
    return " ".join([f"mode {name}", *(f"{field}={values[field]}" for field in fields)])


def _all_modes() -> list[str]:
    names = []
    for name, fields in _MODES.items():
        operation = OPERATION_BY_NAME[name]
        # None of these fields is bounded by the machine.
        bounds = [operation.field(field).bounds(PRESETS["nano"]) for field in fields]
        for values in itertools.product(*(range(low, high + 1) for low, high in bounds)):
            names.append(_mode(name, dict(zip(fields, values, strict=True))))
    return list(dict.fromkeys(names))


def goals() -> tuple[str, ...]:
    """Everything that random programs should reach, by name."""
    names = [f"operation {o.name}" for o in OPERATIONS if o.supported] + _all_modes()
    for unit, states in UNIT_STATES.items():
        names += [f"state {unit.name.lower()}.{state.name}" for state in states]
    names += [f"amount {amount.unit.name.lower()}.{amount.name}" for amount in AMOUNTS]
    names += [f"scalar {scalar.name}" for scalar in SCALARS]
    names += [f"full {name.removeprefix('peak_')}" for name in _FULL]
    names += [f"fault {cause.name.lower()} in control" for cause in FaultCause
              if cause not in (FaultCause.ADDRESS, FaultCause.TOKEN_OVERFLOW)]
    names += [
        f"fault {cause.name.lower()} in {unit.name.lower()}"
        for cause in (FaultCause.ADDRESS, FaultCause.TOKEN_OVERFLOW)
        for unit in Unit
        if unit is not Unit.CONTROL
    ]
    return tuple(name for name in names if name not in UNREACHABLE)


@dataclass(kw_only=True)
class Coverage:
    """How often each thing was reached; `goals()` and whatever an executor reports of its own."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, program: Program, result: RunResult) -> None:
        """Note one run by an executor that counts cycles."""
        counts = self.counts
        if result.fault is not None:
            fault = result.fault
            counts[f"fault {fault.cause.name.lower()} in {fault.unit.name.lower()}"] += 1
        else:
            for word in program.code:
                operation = OPERATION_BY_OPCODE[int(word[0])]
                counts[f"operation {operation.name}"] += 1
                if operation.name in _MODES:
                    number = int.from_bytes(word.tobytes(), "little")
                    fields = [operation.field(name) for name in _MODES[operation.name]]
                    values = {field.name: field.extract(number) for field in fields}
                    counts[_mode(operation.name, values)] += 1
        for name, value in result.coverage.items():
            if isinstance(value, int):
                counts[f"event {name}"] += value
        if result.counters is None:
            return
        for unit, states in UNIT_STATES.items():
            for state in states:
                cycles = int(result.counters.states[unit, :, state.code].sum())
                counts[f"state {unit.name.lower()}.{state.name}"] += cycles
        for index, amount in enumerate(AMOUNTS):
            total = int(result.counters.amounts[index].sum())
            counts[f"amount {amount.unit.name.lower()}.{amount.name}"] += max(0, total)
        self._scalars(result, program.arch)

    def _scalars(self, result: RunResult, arch: Arch) -> None:
        assert result.counters is not None
        for scalar in SCALARS:
            value = int(result.counters.scalars[scalar.index])
            self.counts[f"scalar {scalar.name}"] += value
            limit = _FULL.get(scalar.name)
            if limit is not None and value == getattr(arch, limit):
                self.counts[f"full {scalar.name.removeprefix('peak_')}"] += 1

    def merge(self, other: "Coverage") -> None:
        """Add the counts of `other`."""
        for name, count in other.counts.items():
            self.counts[name] += count

    def missing(self) -> list[str]:
        """Goals, and events that the executor knows of, that were never reached."""
        known: Iterable[str] = dict.fromkeys([*goals(), *self.counts])
        return [n for n in known if not self.counts[n] and n not in UNREACHABLE]

    def format(self) -> str:
        """A table: each name with its count, and what was never reached at the end."""
        reached = [name for name in dict.fromkeys([*goals(), *self.counts]) if self.counts[name]]
        width = max((len(name) for name in reached), default=0)
        lines = [f"{name:<{width}}  {self.counts[name]}" for name in reached]
        missing = self.missing()
        lines.append(f"{len(reached)} reached, {len(missing)} never reached")
        return "\n".join(lines + [f"never: {name}" for name in missing])
