"""Counters by many groups: those that the machine counts where its tags suffice."""

import dataclasses

import numpy as np
import pytest

from systol_hw.arch import PRESETS, TAGS
from systol_hw.isa import decode, encode_program, instruction
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS
from systol_sim import tag_windows
from systol_sim.random_programs.generate import generate
from systol_sim.simulator import run_timing
from systol_sim.tag_windows import count_by_group, tag_setters


def random_program(seed: int, length: int) -> Program:
    """A valid program with a `tag` before every third instruction."""
    program = generate(PRESETS["nano"], seed, instructions=length).program
    items = [decode(row.tobytes()) for row in program.code]
    for place in range(len(items) - 1, -1, -3):
        items.insert(place, instruction("tag", tag=place % TAGS))
    code = encode_program(items)
    return dataclasses.replace(
        program, code=code, weight_memory_bytes=program.code_address + code.size
    )


def tagged(program: Program, tags: list[int]) -> Program:
    """`program` with the tags of its `tag` instructions replaced, in order."""
    left = iter(tags)
    items = [decode(row.tobytes()) for row in program.code]
    changed = [
        instruction("tag", tag=next(left)) if item.operation.name == "tag" else item
        for item in items
    ]
    return dataclasses.replace(program, code=encode_program(changed))


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_the_machines_tags_where_those_suffice(seed: int) -> None:
    program = random_program(seed, 60)
    setters = tag_setters(program)
    count = min(len(setters), TAGS - 1)
    groups = [n % count if n % 4 else -1 for n in range(len(setters))]
    found = count_by_group(program, groups, count)
    timed = run_timing(tagged(program, [group + 1 for group in groups]))
    assert timed.counters is not None
    np.testing.assert_array_equal(found.states[:, :count], timed.counters.states[:, 1 : count + 1])
    np.testing.assert_array_equal(found.states[:, count], timed.counters.states[:, 0])
    for index, amount in enumerate(AMOUNTS):
        if not amount.depends_on_values:
            expected = np.roll(timed.counters.amounts[index], -1)[[*range(count), TAGS - 1]]
            np.testing.assert_array_equal(found.amounts[index], expected)
    np.testing.assert_array_equal(found.times, timed.times)


@pytest.mark.parametrize("seed", range(4))
def test_more_groups_than_tags_are_counted_window_by_window(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program(100 + seed, 200)
    setters = tag_setters(program)
    count = len(setters)
    assert count > TAGS
    found = count_by_group(program, list(range(count)), count)
    monkeypatch.setattr(tag_windows, "COUNTED_TAGS", 8)
    narrow = count_by_group(program, list(range(count)), count)
    np.testing.assert_array_equal(narrow.states, found.states)
    np.testing.assert_array_equal(narrow.amounts, found.amounts)
    timed = run_timing(program)
    assert timed.counters is not None
    np.testing.assert_array_equal(found.states.sum(axis=1), timed.counters.states.sum(axis=1))
    # One group by itself, under tag 1 of the machine.
    for group in (0, count // 2, count - 1):
        alone = run_timing(tagged(program, [int(n == group) for n in range(count)]))
        assert alone.counters is not None
        np.testing.assert_array_equal(found.states[:, group], alone.counters.states[:, 1])
