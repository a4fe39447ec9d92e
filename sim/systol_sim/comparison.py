"""Compares two runs of one program, whichever executors made them."""

import numpy as np

from systol_hw.isa import decode
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import FaultCause
from systol_sim.results import RunResult
from systol_sim.validity.footprint import ACCUMULATORS, UB, footprint

TIMED_FAULTS = frozenset({FaultCause.TOKEN_OVERFLOW, FaultCause.WATCHDOG})
"""Faults that only executors with cycles can find."""
_LINES = 20


def differences(program: Program, a: RunResult, b: RunResult) -> list[str]:
    """One line for each way in which the results of `program` differ; empty if they agree.

    What one of the two does not know is left out: counters and times of the reference, windows and
    memories that a result lacks, everything in memory after a fault.
    """
    lines = _fault(a, b)
    if lines:
        return lines
    untimed = a.counters is None or b.counters is None
    # How far the program came before a fault in a unit is a matter of timing.
    if a.interrupts != b.interrupts and not (untimed and a.fault is not None):
        lines.append(f"interrupts: {a.interrupts} != {b.interrupts}")
    if a.status != b.status and not (untimed and a.fault is not None):
        lines.append(f"status: {a.status} != {b.status}")
    if a.counters is not None and b.counters is not None:
        knows = all((r.counters.amounts >= 0).all() for r in (a, b) if r.counters is not None)
        counted = a.counters.differences(b.counters, values=a.fault is None and knows)
        lines += _some(counted, "counters")
    if a.times is not None and b.times is not None:
        lines += _times(a.times, b.times)
    if a.fault is None:
        lines += _amounts(a, b)
        lines += _memories(program, a, b)
    return lines


def _some(lines: list[str], what: str) -> list[str]:
    rest = len(lines) - _LINES
    return lines[:_LINES] + ([f"... and {rest} more {what}"] if rest > 0 else [])


def _fault(a: RunResult, b: RunResult) -> list[str]:
    if a.fault is None and b.fault is None:
        return []
    untimed = a.counters is None or b.counters is None
    if a.fault is None or b.fault is None:
        fault = a.fault or b.fault
        if untimed and fault is not None and fault.cause in TIMED_FAULTS:
            return []
        return [f"fault: {a.fault} != {b.fault}"]
    if untimed:
        same = (a.fault.cause, a.fault.unit, a.fault.pc) == (
            b.fault.cause, b.fault.unit, b.fault.pc
        )
    else:
        same = a.fault == b.fault
    return [] if same else [f"fault: {a.fault} != {b.fault}"]


def _times(a: np.ndarray, b: np.ndarray) -> list[str]:
    if np.array_equal(a, b):
        return []
    if a.shape != b.shape:
        return [f"times: shape {a.shape} != {b.shape}"]
    return _some(
        [
            f"time of pc {pc}: {'start' if column == 0 else 'end'} "
            f"{a[pc, column]} != {b[pc, column]}"
            for pc, column in np.argwhere(a != b)
        ],
        "times",
    )


def _known_amounts(result: RunResult) -> np.ndarray | None:
    if result.counters is not None:
        return result.counters.amounts
    return result.coverage.get("amounts")


def _amounts(a: RunResult, b: RunResult) -> list[str]:
    """Amounts against those of an executor that counts no cycles."""
    left, right = _known_amounts(a), _known_amounts(b)
    if left is None or right is None or (a.counters is not None and b.counters is not None):
        return []
    return _some(
        [
            f"{AMOUNTS[index].unit.name.lower()}.{AMOUNTS[index].name} tag {tag}: "
            f"{left[index, tag]} != {right[index, tag]}"
            for index, tag in np.argwhere((left != right) & (left >= 0) & (right >= 0))
        ],
        "amounts",
    )


def _memories(program: Program, a: RunResult, b: RunResult) -> list[str]:
    lines = []
    pairs = [
        (window.name, left, right)
        for window, left, right in zip(program.windows, a.windows, b.windows, strict=True)
    ] if a.windows and b.windows else []
    pairs += [(n, a.memories[n], b.memories[n]) for n in a.memories if n in b.memories]
    written: dict[str, np.ndarray] | None = None
    for name, left, right in pairs:
        if np.array_equal(left, right):
            continue
        if written is None:
            written = _written(program)
        unequal = left != right
        if name in written:
            # What nobody wrote holds whatever the memory held before the run.
            mask = written[name]
            unequal &= mask[:, None] if unequal.ndim == 2 else mask
        if unequal.any():
            at = tuple(int(i) for i in np.argwhere(unequal)[0])
            lines.append(
                f"{name}: {int(unequal.sum())} differ, the first at {list(at)}: "
                f"{left[at]} != {right[at]}"
            )
    return lines


def _written(program: Program) -> dict[str, np.ndarray]:
    arch = program.arch
    masks = {
        UB: np.zeros(arch.ub_bytes, bool),
        ACCUMULATORS: np.zeros(arch.accumulator_rows, bool),
    }
    for row in program.code:
        for region in footprint(decode(row.tobytes()), arch).writes:
            if region.space in masks:
                masks[region.space][region.index()] = True
    return {"ub": masks[UB], "accumulators": masks[ACCUMULATORS]}
