"""The RTL in Amaranth's simulator against the fast simulator, on a small program."""

import dataclasses

import numpy as np
import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import InputError
from systol_hw.isa import instruction, mask_of_units
from systol_hw.program import Window, make_program
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim import simulator
from systol_sim.hardware import amaranth_sim
from systol_sim.random_programs.generate import generate

NANO = PRESETS["nano"]
SMALL = dataclasses.replace(
    NANO, name="small", rows=4, columns=6, ub_bytes=1024, accumulator_rows=16, vector_lanes=3
)


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
    assert found.interrupts == [3, 0]
    assert found.fault is not None and found.fault.cause is FaultCause.ILLEGAL_INSTRUCTION
    assert found.fault.pc == 2
    assert found.fault == simulator.run_timing(program, skip=True, watchdog_cycles=1000).fault
    with pytest.raises(InputError, match="did not end within 20 cycles"):
        amaranth_sim.run(program, checked=True, cycle_limit=20)


def test_product_of_two_activations() -> None:
    """unsigned A times the transpose of B, scaled by 2**16: both come from one alternate window."""
    rng = np.random.default_rng(5)
    rows, columns, length = SMALL.rows, SMALL.columns, 5
    a = rng.integers(0, 256, (length, rows)).astype(np.uint8)
    b = rng.integers(-128, 128, (columns, rows)).astype(np.int8)
    a[1], a[2], b[0] = 255, 0, -128  # 2**15 * 2**16 passes 32 bits
    content = np.concatenate([a.reshape(-1), b.view(np.uint8).reshape(-1)])
    load, weights, matrix = (mask_of_units([u]) for u in (Unit.LOAD, Unit.WEIGHTS, Unit.MATRIX))
    program = make_program(
        SMALL,
        [
            instruction("set_config", register=1, value=0xCAFE0001),
            instruction("read_host_alternate", window=1, run_bytes=content.size,
                        signal=weights | matrix),
            instruction("read_weights_ub", transpose=1, address=a.size, row_pitch=rows,
                        k_last=rows, n_last=columns, wait=load),
            instruction("matmul", unsigned_activations=1, accumulate_shift=2, x_count=length,
                        x_step=rows, p_limit=a.size, k_last=rows, wait=load),
            instruction("sync_host", value=77),
            instruction("write_host_alternate", window=0, memory_address=1, run_bytes=9),
            instruction("halt"),
        ],
        windows=tuple(Window(name=f"w{n}", size_bytes=60) for n in range(10)),
    )
    found = amaranth_sim.run(program, {"w9": content}, memories=True)
    assert found.fault is None and found.interrupts == [77] and found.status == 0xCAFE0001
    exact = (a.astype(np.int64) - 128) @ b.T.astype(np.int64) << 16
    wrapped = (exact + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(found.memories["accumulators"][:length], wrapped)
    assert found.counters is not None and (exact != wrapped).any()
    assert found.counters.amount(Unit.MATRIX, "overflows") == (exact != wrapped).sum()
    assert found.counters.amount(Unit.WEIGHTS, "ub_bytes") == b.size
    assert found.counters.amount(Unit.WEIGHTS, "weight_bytes") == 0
    np.testing.assert_array_equal(found.windows[8][1:10], content[:9])
    assert not found.windows[8][10:].any() and not found.windows[0].any()
    expected = simulator.run_timing(program, skip=True, watchdog_cycles=1000)
    assert expected.counters is not None and expected.times is not None
    assert expected.counters.differences(found.counters, values=False) == []
    np.testing.assert_array_equal(expected.times, found.times)


def test_a_sync_takes_the_host_ports_latency() -> None:
    """It is seen and reported in one cycle, executed 16 cycles later, and its wait is counted."""
    program = make_program(SMALL, [instruction("sync_host", value=5), instruction("halt")])
    found = amaranth_sim.run(program)
    assert found.times is not None and found.counters is not None
    start, end = found.times[0]
    assert end - start == SMALL.host_port.latency_cycles == 16
    assert found.counters.state(Unit.CONTROL, "wait_host") == 16
    assert found.counters.scalars[1] == 0, "the host was there in time"


def test_the_watchdog_that_a_program_sets() -> None:
    """A wait that nothing ends, with a limit of 50 cycles from the configuration's own cycle on."""
    program = make_program(
        SMALL,
        [
            instruction("fill", wait=mask_of_units([Unit.LOAD])),
            instruction("set_config", register=0, value=50),
            instruction("nop"),
            instruction("halt"),
        ],
    )
    found = amaranth_sim.run(program, checked=True)
    assert found.fault is not None and found.fault.cause is FaultCause.WATCHDOG
    assert found.times is not None
    # The next instruction comes through a byte a cycle: 64 cycles are too many.
    assert found.fault.pc == 2 and found.fault.cycle == found.times[1, 1] + 50
