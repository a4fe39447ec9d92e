"""Long compiled calls answer an interrupt, and slow machines and large instructions are bounded."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest

from systol_hw.arch import PRESETS, MemoryPort
from systol_hw.errors import InputError
from systol_hw.isa import instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.faults import FaultCause, Unit
from systol_hw.tables.registers import LARGEST_WATCHDOG_CYCLES, default_watchdog_cycles
from systol_sim import reference, simulator
from systol_sim.hardware.run_setup import register_writes
from systol_sim.jit.interruptible import THREAD, interruptible

NANO = PRESETS["nano"]
PATIENCE_SECONDS = 60
"""Far from the hours that what is interrupted here would take."""


@pytest.fixture
def interrupts() -> Iterator[Callable[[float], None]]:
    """Call it with seconds after which this process is interrupted."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timers = []

    def after(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.cancel()
    signal.signal(signal.SIGINT, before)


def _long_matmul() -> Program:
    """A product of 2**37 rows: hours for whoever steps them."""
    return make_program(
        NANO,
        [
            instruction("fill", n_last=8, signal=1 << (Unit.MATRIX - 1)),
            instruction("read_weights", outer_count=65535, inner_count=255, k_last=8, n_last=8,
                        row_pitch=8),
            instruction("matmul", wait=1 << (Unit.VECTOR - 1), k0_count=255, k2_count=65535,
                        k_last=8, p_limit=8, y_limit=128, y_count=128),
            instruction("halt"),
        ],
        weight_image=np.zeros(64, np.uint8),
    )  # fmt: skip


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("skip", [False, True])
def test_the_stepper_stops_when_it_is_interrupted(
    skip: bool, interrupts: Callable[[float], None]
) -> None:
    """And does not go on beside."""
    simulator.run(make_program(NANO, [instruction("halt")]))  # compiled by now
    began = time.monotonic()
    interrupts(1.0)
    with pytest.raises(KeyboardInterrupt):
        simulator.run(
            _long_matmul(), values=False, checked=True, skip=skip, streams=False,
            watchdog_cycles=LARGEST_WATCHDOG_CYCLES,
        )  # fmt: skip
    assert time.monotonic() - began < PATIENCE_SECONDS
    for thread in _threads():
        thread.join(PATIENCE_SECONDS)
    assert _threads() == []


def test_values_can_be_interrupted(interrupts: Callable[[float], None]) -> None:
    """One instruction of many seconds: a window of 255 x 255 taps at 120 x 120 places."""
    program = make_program(
        NANO,
        [
            instruction("copy", source_ub=1, n_last=8, x_count=120, y_count=120, ky_count=255,
                        kx_count=255, x_limit=1 << 15, y_limit=1 << 15, out_address=64),
            instruction("halt"),
        ],
    )  # fmt: skip
    simulator.run(make_program(NANO, [instruction("fill", n_last=8), instruction("halt")]))
    windows = program.initial_windows({})
    from systol_sim.values.program_values import compute_values

    began = time.monotonic()
    interrupts(1.0)
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: compute_values(program, windows))
    ended = time.monotonic()
    (thread,) = _threads()
    thread.join()
    assert ended - began < (time.monotonic() - began) / 2


def test_results_and_errors_come_through() -> None:
    assert interruptible(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        interruptible(lambda: np.float32(3e38) * np.float32(10))
    found: list[str] = []
    worker = threading.Thread(
        target=lambda: interruptible(lambda: found.append(threading.current_thread().name)),
        name="worker",
    )
    worker.start()
    worker.join()
    assert found == ["worker"]


def _port(width: int, rate: Fraction) -> MemoryPort:
    return MemoryPort(width_bytes=width, bytes_per_cycle=rate, latency_cycles=8)


def test_the_watchdogs_default_follows_the_slower_port() -> None:
    fast = _port(4, Fraction(4))
    assert default_watchdog_cycles(fast, fast) == 1 << 24
    # A beat of four bytes takes four cycles at one byte a cycle, and six at two thirds of one.
    assert default_watchdog_cycles(_port(4, Fraction(1)), fast) == 4 << 24
    assert default_watchdog_cycles(fast, _port(4, Fraction(2, 3))) == 6 << 24
    assert default_watchdog_cycles(fast, _port(4, Fraction(3, 4095))) == (1 << 32) - 1
    for arch in PRESETS.values():
        default = default_watchdog_cycles(arch.weight_port, arch.host_port)
        writes = register_writes(make_program(arch, [instruction("halt")]))
        assert (3, default) in writes


@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(1, 4095)])
def test_a_slow_port_does_not_trip_the_watchdog(rate: Fraction) -> None:
    """A read that takes more cycles than the limit of a machine with fast ports."""
    arch = dataclasses.replace(NANO, ub_bytes=1 << 20, host_port=_port(1, rate))
    count = -(-(1 << 25) // rate.denominator)
    program = make_program(
        arch,
        [
            instruction("read_host", run_bytes=count),
            instruction("halt"),
        ],
        windows=(Window(name="w", size_bytes=1 << 20),),
    )
    result = simulator.run_timing(program)
    assert result.fault is None and result.counters is not None
    assert result.counters.cycles > 1 << 25
    tripped = simulator.run_timing(program, watchdog_cycles=1 << 24)
    assert tripped.fault is not None and tripped.fault.cause is FaultCause.WATCHDOG


LARGE = {
    "x_count": 65535, "y_count": 65535, "k2_count": 3, "p_limit": 8, "k_last": 8,
}  # fmt: skip


def test_the_reference_executes_nothing_that_no_watchdog_waits_for() -> None:
    program = make_program(NANO, [instruction("matmul", **LARGE), instruction("halt")])
    result = reference.run(program, checked=True)
    assert result.fault is not None
    assert (result.fault.cause, result.fault.pc) == (FaultCause.WATCHDOG, 0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("matmul", {**LARGE, "k2_count": 1, "x_count": 65535, "y_count": 60000}),
        ("read_host", {"run_bytes": 1 << 20, "count0": 1000}),
        ("copy", {"source_ub": 1, "n_last": 8, "x_count": 65535, "y_count": 2000}),
        ("read_weights", {"n_count": 4000, "inner_count": 65535, "k_last": 8, "n_last": 8}),
    ],
)
def test_the_reference_allocates_no_more_than_it_can_be_given(
    name: str, fields: dict[str, int]
) -> None:
    program = make_program(
        NANO, [instruction(name, **fields), instruction("halt")],
        windows=(Window(name="w", size_bytes=64),),
    )  # fmt: skip
    with pytest.raises(InputError, match=rf"pc 0: {name} touches [\d,]+ elements at once"):
        reference.run(program, checked=True)
