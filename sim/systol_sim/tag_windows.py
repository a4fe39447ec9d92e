"""Counters by more groups of instructions than the machine has debug tags.

Time never depends on tags. So a program whose `tag` instructions stand where they stand is stepped
with tags that the machine itself could not hold, and every figure is the one that a machine with
that many tags would count. If even those are too few, it is stepped again for each window of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS, STATES
from systol_hw.tables.faults import Unit
from systol_sim.simulator import prepared_table, step
from systol_sim.timing.state.instruction_table import InstructionTable
from systol_sim.timing.state.machine_state import COUNTED_TAGS
from systol_sim.timing.state.table_columns import KIND, REFUSED, TAG, UNIT, VALUE


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupCounters:
    """Counters by group; the last one holds what belongs to no group.

    Attributes
    ----------
    states
        int64 (6 units, groups + 1, 16 state codes): cycles.
    amounts
        int64 (len(AMOUNTS), groups + 1); -1 throughout a row that depends on values.
    times
        int64 (instructions, 2): start and end cycle of each instruction.
    """

    states: np.ndarray
    amounts: np.ndarray
    times: np.ndarray


def tag_setters(program: Program) -> np.ndarray:
    """Places of the `tag` instructions of `program`, ascending."""
    return _setters(prepared_table(program))


def count_by_group(program: Program, groups: Sequence[int], count: int) -> GroupCounters:
    """Step `program`, which is valid, and count by groups.

    Parameters
    ----------
    groups
        For each of `tag_setters(program)` the group, 0 .. `count` - 1, that everything behind it
        belongs to until the next one; -1 for none.
    """
    table = prepared_table(program)
    setters, wanted = _setters(table), np.asarray(groups, np.int64)
    states = np.zeros((len(Unit), count + 1, STATES), np.int64)
    amounts = np.zeros((len(AMOUNTS), count + 1), np.int64)
    window = COUNTED_TAGS - 1  # tag 0 is for everything else
    for low in range(0, max(count, 1), window):
        high = min(low + window, count)
        rows = table.rows.copy()
        inside = (wanted >= low) & (wanted < high)
        rows[setters, VALUE] = np.where(inside, wanted - low + 1, 0)
        run = step(
            program, InstructionTable(rows=rows, order=table.order), tags=high - low + 1
        )
        assert run.counters is not None and run.times is not None
        states[:, low:high] = run.counters.states[:, 1 : high - low + 1]
        amounts[:, low:high] = run.counters.amounts[:, 1 : high - low + 1]
        times, all_states = run.times, run.counters.states.sum(axis=1)
        all_amounts = run.counters.amounts.sum(axis=1)
    states[:, count] = all_states - states[:, :count].sum(axis=1)
    amounts[:, count] = all_amounts - amounts[:, :count].sum(axis=1)
    for index, amount in enumerate(AMOUNTS):
        if amount.depends_on_values:
            amounts[index] = -1
    return GroupCounters(states=states, amounts=amounts, times=times)


def _setters(table: InstructionTable) -> np.ndarray:
    rows = table.rows
    sets = (rows[:, UNIT] == Unit.CONTROL) & (rows[:, KIND] == TAG) & (rows[:, REFUSED] == 0)
    return np.flatnonzero(sets)
