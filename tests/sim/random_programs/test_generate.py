"""Generated programs: valid by construction, varied, and agreed upon by the executors."""

import statistics
from collections import Counter

import numpy as np
import pytest

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import decode
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit
from systol_sim.fuzz.campaign import refer, step
from systol_sim.fuzz.covering import covering_machines
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.fuzz.modes import mode_names, mode_of
from systol_sim.random_programs.generate import generate, overflow_program
from systol_sim.validity.checker import check


@pytest.mark.parametrize("arch", covering_machines(), ids=lambda arch: arch.name)
def test_programs_are_valid(arch: Arch) -> None:
    for seed in range(6):
        check(generate(arch, seed).program)


def test_programs_have_every_operation_and_mode() -> None:
    left = {f"operation {operation.name}" for operation in OPERATIONS} | set(mode_names())
    windows = set()
    machines = covering_machines()
    for seed in range(600):
        program = generate(machines[seed % len(machines)], seed).program
        windows.add(len(program.windows))
        for row in program.code:
            data = row.tobytes()
            left.discard(f"operation {decode(data).operation.name}")
            left.discard(mode_of(data) or "")
        if not left:
            break
    assert not left
    assert min(windows) < 8 < max(windows)


def test_values_are_interesting() -> None:
    """Rounding ties, saturation and every overflow happen, and most values are none of them."""
    machines, totals = covering_machines(), Counter[str]()
    for seed in range(120):
        case = generate(machines[seed % len(machines)], seed)
        result = refer(case.program, case.contents)
        assert result.fault is None
        for index, amount in enumerate(AMOUNTS):
            totals[f"{amount.unit.name.lower()} {amount.name}"] += int(
                result.coverage["amounts"][index].sum()
            )
    assert totals["matrix overflows"] > 100 and totals["vector overflows"] > 100
    assert 0.02 < totals["vector saturations"] / totals["vector elements"] < 0.5


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
        result = step(case.program, case.contents)
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
