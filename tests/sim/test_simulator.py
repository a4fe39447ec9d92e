"""The simulator: skipping equals stepping, values equal the reference, counters add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systol_hw.arch import Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import decode, instruction
from systol_hw.program import Program, make_program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim import reference, simulator
from systol_sim.comparison import differences
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.generate import generate

MACHINES = list(FUZZ_MACHINES)
machines = st.sampled_from(MACHINES)
seeds = st.integers(0, 1 << 32)


@settings(max_examples=40)
@given(arch=machines, seed=seeds)
def test_skipping_changes_nothing(arch: Arch, seed: int) -> None:
    case = generate(arch, seed)
    stepped = simulator.run_timing(case.program, skip=False)
    skipped = simulator.run_timing(case.program, skip=True)
    skips = ("cycles skipped", "cycles of streams skipped")
    assert sum(stepped.coverage[name] for name in skips) == 0
    assert sum(skipped.coverage[name] for name in skips) > 0
    assert stepped.counters is not None and skipped.counters is not None
    assert skipped.counters.differences(stepped.counters) == []
    assert skipped.times is not None
    np.testing.assert_array_equal(skipped.times, stepped.times)


@settings(max_examples=40)
@given(arch=machines, seed=seeds)
def test_values_equal_the_reference(arch: Arch, seed: int) -> None:
    case = generate(arch, seed)
    simulated = simulator.run(case.program, case.contents)
    assert differences(case.program, simulated, reference.run(case.program, case.contents)) == []


@settings(max_examples=20)
@given(arch=machines, seed=seeds)
def test_counters_add_up(arch: Arch, seed: int) -> None:
    case = generate(arch, seed)
    result = simulator.run(case.program, case.contents, values=False)
    counters = result.counters
    assert counters is not None and result.fault is None
    for unit in Unit:
        assert counters.states[unit].sum() == counters.cycles
    instructions = [decode(word.tobytes()) for word in case.program.code]
    for unit in Unit:
        if unit is not Unit.CONTROL:
            count = sum(item.unit is unit for item in instructions)
            assert counters.state(unit, "start") == count
    assert counters.state(Unit.CONTROL, "busy") == len(instructions)
    rows = sum(
        item["n_count"] * item["k0_count"] * item["k1_count"] * item["k2_count"]
        * item["y_count"] * item["x_count"]
        for item in instructions if item.unit is Unit.MATRIX
    )
    assert counters.state(Unit.MATRIX, "busy") == rows
    useful = counters.amount(Unit.MATRIX, "useful_macs")
    assert counters.amount(Unit.MATRIX, "padding_macs") <= useful <= rows * arch.macs_per_cycle
    moved = sum(
        item["run_bytes"] * item["count0"] * item["count1"]
        for item in instructions if item.unit is Unit.LOAD
    )
    assert moved == counters.amount(Unit.LOAD, "host_bytes") + counters.amount(
        Unit.LOAD, "weight_bytes"
    )
    assert counters.amount(Unit.CONTROL, "fetch_bytes") == 64 * len(instructions)


def test_without_values_their_counters_are_unknown() -> None:
    case = generate(MACHINES[0], 1)
    counters = simulator.run(case.program, values=False).counters
    assert counters is not None
    for index, amount in enumerate(AMOUNTS):
        assert bool((counters.amounts[index] == -1).all()) == amount.depends_on_values


def _waiting_for_ever() -> Program:
    return make_program(
        MACHINES[0], [instruction("fill", n_last=1, wait=1), instruction("halt")]
    )


def test_a_program_that_sticks_is_refused() -> None:
    with pytest.raises(InvalidProgramError):
        simulator.run(_waiting_for_ever())


@pytest.mark.parametrize("skip", [True, False])
def test_the_watchdog_ends_a_program_that_sticks(skip: bool) -> None:
    result = simulator.run(_waiting_for_ever(), checked=True, watchdog_cycles=500, skip=skip)
    assert result.fault is not None and result.counters is not None
    assert (result.fault.cause, result.fault.unit) == (FaultCause.WATCHDOG, Unit.CONTROL)
    assert result.fault.pc == 1  # halt waits for quiet
    assert result.counters.cycles == result.fault.cycle + 1
    # The dispatch of the fill was the last progress; the watchdog counts from the cycle after it.
    assert result.times is not None and result.times[0, 0] == -1
    dispatched = result.fault.cycle - 500
    assert result.counters.state(Unit.CONTROL, "busy") == 1 and dispatched > 0


@pytest.mark.parametrize(("limit", "cycles"), [(300, 300), (0, 1), (1000, 500)])
@pytest.mark.parametrize("skip", [True, False])
def test_a_program_can_lower_the_watchdogs_limit(limit: int, cycles: int, skip: bool) -> None:
    program = make_program(
        MACHINES[0],
        [
            instruction("set_config", register=1, value=5),
            instruction("set_config", value=limit),
            instruction("set_config", register=1, value=6),
            instruction("barrier"),
            instruction("fill", n_last=1, wait=1),
            instruction("halt"),
        ],
    )
    result = simulator.run(program, checked=True, watchdog_cycles=500, skip=skip)
    assert result.fault is not None and result.times is not None
    assert result.fault.cause is FaultCause.WATCHDOG
    if limit == 0:
        # From the cycle after the writing on, a single one without progress is too many.
        assert result.fault.cycle == result.times[1, 1] + 1 and result.status == 5
    else:
        assert result.status == 6 and result.fault.pc == 5
        assert result.fault.cycle - result.times[3, 1] > cycles


def test_the_host_is_waited_for_as_long_as_its_port_takes() -> None:
    arch = MACHINES[-1]
    program = make_program(
        arch, [instruction("sync_host", value=3), instruction("interrupt", value=4),
               instruction("halt")],
    )
    result = simulator.run(program)
    assert result.times is not None and result.interrupts == [3, 4]
    assert result.times[0, 1] - result.times[0, 0] == arch.host_port.latency_cycles
