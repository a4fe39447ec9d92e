"""The RTL in Amaranth's simulator against the fast simulator, on a small program."""

import numpy as np
import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import InputError
from systol_hw.faults import FaultCause
from systol_hw.isa import instruction
from systol_hw.program import make_program
from systol_sim import amaranth_sim, simulator
from systol_sim.generate import generate

NANO = PRESETS["nano"]


def test_random_program_equals_the_simulator() -> None:
    case = generate(NANO, 1, instructions=4)
    expected = simulator.run(case.program, case.contents)
    found = amaranth_sim.run(case.program, case.contents)
    assert expected.counters is not None and found.counters is not None
    assert expected.counters.differences(found.counters) == []
    assert expected.times is not None and found.times is not None
    np.testing.assert_array_equal(expected.times, found.times)
    for a, b in zip(expected.windows, found.windows, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fault_and_cycle_limit() -> None:
    program = make_program(NANO, [instruction("interrupt", value=3), instruction("sync_host")])
    found = amaranth_sim.run(program, checked=True)
    assert found.interrupts == [3]
    assert found.fault is not None and found.fault.cause is FaultCause.UNSUPPORTED
    assert found.fault == simulator.run_timing(program, skip=True, watchdog_cycles=1000).fault
    with pytest.raises(InputError, match="did not end within 20 cycles"):
        amaranth_sim.run(program, checked=True, cycle_limit=20)
