"""What the runs of one model gave, as plain data."""

from dataclasses import dataclass, field, replace

import numpy as np

from systol.device import Backend
from systol_compiler.binary.model import CompiledModel, MachineSegment
from systol_compiler.numbers.limits import Array
from systol_hw.tables.counters import AMOUNTS
from systol_sim.results import Counters, RunResult


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentRun:
    """What the runs of one machine segment gave.

    Attributes
    ----------
    counters
        Sums over all runs (peaks: maxima); None where the device counts no cycles.
    first
        The result of the first run, but for windows and memories: those of all segments together
        may be more than the computer has.
    """

    segment: MachineSegment
    counters: Counters | None
    first: RunResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RunRecord:
    """The outcome of one call of `Session.run` or `Session.time`.

    Attributes
    ----------
    outputs
        The model's outputs by name; the first dimension is the number of items given, where the
        model has items. Empty where only time was asked for.
    segments
        Machine segments, in order.
    tensors
        Where they were asked for, the quantized tensors that cross between segments, by name:
        int8 or int16, their first dimension as that of outputs.
    items, runs
        Items given, and times that the segments ran for them.
    filled
        Items that the last run had more than were given: copies, whose results were dropped. All
        counters count them.
    host_seconds, machine_seconds
        Time spent in host segments, and in executing machine segments on this computer (which
        says nothing about the machine).
    warnings
        What the user should know: inputs outside the calibrated range, a partly filled run.
    """

    model: CompiledModel
    backend: Backend
    outputs: dict[str, Array]
    segments: tuple[SegmentRun, ...]
    tensors: dict[str, Array] = field(default_factory=dict)
    items: int
    runs: int
    filled: int = 0
    host_seconds: float
    machine_seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def counters(self) -> Counters | None:
        """Those of all machine segments together; None where none were counted."""
        total: Counters | None = None
        for run in self.segments:
            total = add_counters(total, run.counters)
        return total

    @property
    def cycles(self) -> int | None:
        """Cycles of all machine segments and runs; None where none were counted."""
        counters = self.counters
        return None if counters is None else counters.cycles


def add_counters(a: Counters | None, b: Counters | None) -> Counters | None:
    """Counters of two runs together: sums, but the greater of two peaks. None counts nothing."""
    if a is None or b is None:
        return a if b is None else b
    scalars = np.maximum(a.scalars, b.scalars)
    scalars[:2] = a.scalars[:2] + b.scalars[:2]  # cycles and late cycles; the others are peaks
    # A row of -1 stands for "not known" and must stay that.
    known = (a.amounts >= 0) & (b.amounts >= 0)
    return Counters(
        states=a.states + b.states,
        amounts=np.where(known, a.amounts + b.amounts, -1),
        scalars=scalars,
    )


def without_values(counters: Counters) -> Counters:
    """Counters of which those that depend on values are not known (-1)."""
    depends = [amount.depends_on_values for amount in AMOUNTS]
    amounts = np.where(np.array(depends)[:, None], -1, counters.amounts)
    return replace(counters, amounts=amounts)
