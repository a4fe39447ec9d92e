"""Generated programs: valid by construction, varied, and agreed upon by the executors."""

import statistics

import numpy as np
import pytest

from systol_hw.arch import PRESETS, Arch
from systol_hw.faults import Unit
from systol_hw.isa import decode
from systol_sim.checker import check
from systol_sim.fuzz import simulate
from systol_sim.generate import generate, overflow_program
from systol_sim.machines import FUZZ_MACHINES


def test_machines_differ_in_what_matters() -> None:
    assert len(FUZZ_MACHINES) >= 10
    assert len({arch.fingerprint() for arch in FUZZ_MACHINES}) == len(FUZZ_MACHINES)
    for name in ("queue_depth", "fetch_buffer_instructions", "inflight_instructions", "ub_banks",
                 "token_limit", "vector_write_rows", "store_buffer_beats", "weight_fifo_tiles"):
        values = {getattr(arch, name) for arch in FUZZ_MACHINES}
        assert 1 in values and len(values) > 1, name
    assert any(arch.rows > arch.columns for arch in FUZZ_MACHINES)
    assert any(arch.rows < arch.columns for arch in FUZZ_MACHINES)


@pytest.mark.parametrize("arch", FUZZ_MACHINES, ids=lambda arch: arch.name)
def test_programs_are_valid(arch: Arch) -> None:
    for seed in range(20):
        check(generate(arch, seed).program)


@pytest.mark.parametrize("name", ["edge16", "edge32"])
def test_presets_have_programs_too(name: str) -> None:
    check(generate(PRESETS[name], 1).program)


def test_equal_seeds_give_equal_programs() -> None:
    a, b, c = (generate(FUZZ_MACHINES[1], seed) for seed in (5, 5, 6))
    assert np.array_equal(a.program.code, b.program.code)
    assert a.contents.keys() == b.contents.keys()
    assert all(np.array_equal(a.contents[name], b.contents[name]) for name in a.contents)
    assert not np.array_equal(a.program.code, c.program.code)


def test_programs_are_long_busy_and_short_lived() -> None:
    lengths, units, cycles, overlaps = [], [], [], []
    for seed in range(3 * len(FUZZ_MACHINES)):
        case = generate(FUZZ_MACHINES[seed % len(FUZZ_MACHINES)], seed)
        items = [decode(row.tobytes()) for row in case.program.code]
        lengths.append(len(items))
        units.append(len({item.unit for item in items} - {Unit.CONTROL}))
        result = simulate(case.program, case.contents)
        assert result.fault is None and result.times is not None and result.counters is not None
        cycles.append(result.counters.cycles)
        running = np.zeros(result.counters.cycles + 1, int)
        for item, (start, end) in zip(items, result.times, strict=True):
            if item.unit is not Unit.CONTROL:
                running[start : end + 1] += 1
        overlaps.append(running.max())
    assert statistics.median(lengths) >= 30
    assert statistics.median(units) >= 4
    assert max(cycles) < 20_000
    assert statistics.median(overlaps) >= 3


def test_the_overflow_program_is_valid_on_every_machine() -> None:
    for arch in FUZZ_MACHINES:
        check(overflow_program(arch).program)
