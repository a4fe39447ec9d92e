"""The memory port against section 3 of the timing contract."""

import random
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw import arch
from systol_hw.rtl.contract.interfaces import BeatSignature
from systol_hw.rtl.memory.memory_port import MemoryPort
from systol_hw.tables.registers import latency_limit

USER_BITS = {"fetch": 1, "weights": 9, "load": 12, "store": 3}
NAMES = tuple(USER_BITS)


@dataclass
class Beat:
    """A beat that a requester presents, or has been granted."""

    requester: str
    address: int
    burst_last: bool
    user: int
    data: int = 0
    strobe: int = 0
    granted: int = -1
    delivered: int = -1


@dataclass
class PortModel:
    """Rules 3.3 and 3.4, written from the page."""

    parameters: arch.MemoryPort
    credits: int = field(init=False)
    inside: str | None = None

    def __post_init__(self) -> None:
        self.credits = self.parameters.beat_cost

    def grant(self, presented: dict[str, Beat]) -> str | None:
        """Which requester is granted in this cycle; goes on to the next one."""
        port = self.parameters
        chosen = None
        if self.credits >= port.beat_cost:
            order = NAMES if self.inside is None else (self.inside,)
            chosen = next((name for name in order if name in presented), None)
        cost = port.beat_cost if chosen else 0
        self.credits = min(self.credits - cost + port.credit_income, port.credit_cap)
        if chosen:
            self.inside = None if presented[chosen].burst_last else chosen
        return chosen


def word_at(address: int, width: int) -> int:
    """What the memory of these tests holds."""
    return random.Random(address).getrandbits(8 * width)


@dataclass
class Trace:
    """What a run showed."""

    granted: list[Beat]
    late_cycles: list[int]
    writes: list[tuple[int, int, int]]


def run_port(
    parameters: arch.MemoryPort,
    *,
    cycles: int,
    seed: int,
    density: float,
    ready: float = 1.0,
    delay: int = 0,
    stop: int | None = None,
) -> Trace:
    """Random beats through a port. With `ready` = 1 and `delay` = 0 the memory is a fast one, and
    every grant and delivery is compared with the model; otherwise only order and data are."""
    rng = random.Random(seed)
    width = parameters.width_bytes
    fast = ready == 1.0 and delay == 0
    dut = MemoryPort(
        width_bytes=width,
        requesters={
            name: BeatSignature(width_bytes=width, user_bits=bits, write=name == "store")
            for name, bits in USER_BITS.items()
        },
        max_latency_cycles=latency_limit(parameters.latency_cycles),
    )
    model = PortModel(parameters)
    trace = Trace([], [], [])

    def new_beat(name: str) -> Beat:
        return Beat(
            requester=name,
            address=rng.randrange(1 << 20) * width,
            burst_last=rng.random() < 0.4,
            user=rng.getrandbits(USER_BITS[name]),
            data=rng.getrandbits(8 * width) if name == "store" else 0,
            strobe=rng.getrandbits(width) if name == "store" else 0,
        )

    async def bench(ctx: Any) -> None:
        ctx.set(dut.beat_cost, parameters.beat_cost)
        ctx.set(dut.credit_income, parameters.credit_income)
        ctx.set(dut.credit_cap, parameters.credit_cap)
        ctx.set(dut.latency, parameters.latency_cycles)
        presented: dict[str, Beat] = {}
        in_flight: deque[Beat] = deque()
        answers: deque[tuple[int, int]] = deque()  # earliest cycle, data
        for cycle in range(cycles):
            for name in NAMES:
                beat = getattr(dut, name)
                if name not in presented and rng.random() < density:
                    presented[name] = new_beat(name)
                ctx.set(beat.request, name in presented)
                if name in presented:
                    now = presented[name]
                    ctx.set(beat.address, now.address)
                    ctx.set(beat.burst_last, now.burst_last)
                    ctx.set(beat.user, now.user)
                    if name == "store":
                        ctx.set(beat.data, now.data)
                        ctx.set(beat.strobe, now.strobe)
            ctx.set(dut.run, stop is None or cycle < stop)
            can_accept = rng.random() < ready
            ctx.set(dut.memory.request_ready, can_accept)
            responds = bool(answers) and answers[0][0] <= cycle
            ctx.set(dut.memory.response_valid, responds)
            ctx.set(dut.memory.response_data, answers[0][1] if responds else rng.getrandbits(8))
            assert ctx.get(dut.memory.response_ready)
            if responds:
                answers.popleft()

            grants = [name for name in NAMES if ctx.get(getattr(dut, name).grant)]
            if fast and stop is None:
                expected = model.grant(presented)
                assert grants == ([expected] if expected else []), f"cycle {cycle}"
            assert len(grants) <= 1 and all(name in presented for name in grants)
            if ctx.get(dut.late):
                trace.late_cycles.append(cycle)
            if can_accept and ctx.get(dut.memory.request_valid):
                address = ctx.get(dut.memory.request_address)
                if ctx.get(dut.memory.request_write):
                    trace.writes.append(
                        (
                            address,
                            ctx.get(dut.memory.request_data),
                            ctx.get(dut.memory.request_strobe),
                        )
                    )
                extra = rng.randrange(delay + 1)
                answers.append((cycle + 1 + extra, word_at(address, width)))
            delivered = [name for name in NAMES if ctx.get(getattr(dut, name).delivered)]
            assert len(delivered) <= 1
            for name in delivered:
                beat = in_flight.popleft()
                port = getattr(dut, name)
                assert beat.requester == name
                assert ctx.get(port.delivered_user) == beat.user
                if name != "store":
                    assert ctx.get(port.read_data) == word_at(beat.address, width)
                beat.delivered = cycle
            for name in grants:
                beat = presented.pop(name)
                beat.granted = cycle
                in_flight.append(beat)
                trace.granted.append(beat)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return trace


def port(width: int, rate: str, latency: int) -> arch.MemoryPort:
    return arch.MemoryPort(
        width_bytes=width, bytes_per_cycle=Fraction(rate), latency_cycles=latency
    )


PORTS = [
    port(64, "340/7", 100),
    port(4, "3/4", 8),
    port(1, "1", 8),
    port(4, "4", 40),
    port(32, "20", 71),
    port(2, "1/4095", 16),
    port(64, "4095/64", 9),
]


@pytest.mark.parametrize("parameters", PORTS, ids=str)
@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
def test_a_fast_memory_makes_grants_and_deliveries_exact(
    parameters: arch.MemoryPort, density: float
) -> None:
    cycles = 600
    trace = run_port(parameters, cycles=cycles, seed=7, density=density)
    latency = parameters.latency_cycles
    assert trace.late_cycles == []
    assert trace.granted
    for beat in trace.granted:
        due = beat.granted + latency
        assert beat.delivered == (due if due < cycles else -1)
    stored = [b for b in trace.granted if b.requester == "store" and b.granted < cycles - 1]
    assert trace.writes == [(b.address, b.data, b.strobe) for b in stored]


def test_the_sustained_rate_is_the_declared_one() -> None:
    parameters = port(64, "340/7", 100)
    trace = run_port(parameters, cycles=2000, seed=1, density=1.0)
    # One beat of credit stands there at the start.
    assert len(trace.granted) == int(1 + 1999 * Fraction(340, 7) / 64)


@pytest.mark.parametrize("ready, delay", [(0.5, 0), (1.0, 30), (0.7, 300)])
def test_a_slow_memory_makes_deliveries_late_and_never_wrong(ready: float, delay: int) -> None:
    parameters = port(4, "4", 12)
    trace = run_port(parameters, cycles=1500, seed=3, density=0.5, ready=ready, delay=delay)
    assert trace.late_cycles
    done = [beat for beat in trace.granted if beat.delivered >= 0]
    assert len(done) > 20
    assert all(beat.delivered >= beat.granted + 12 for beat in done)
    assert any(beat.delivered > beat.granted + 12 for beat in done) or ready < 1.0
    # What lags catches up: the queue is never blocked longer than the slowest responses take.
    undelivered = [beat for beat in trace.granted if beat.delivered < 0]
    assert len(undelivered) <= latency_limit(12)


def one_requester() -> MemoryPort:
    """A port with fetch alone; `set_up` gives it a beat a cycle and a latency of 8."""
    return MemoryPort(
        width_bytes=1,
        requesters={"fetch": BeatSignature(width_bytes=1, user_bits=1, write=False)},
    )


def set_up(ctx: Any, dut: MemoryPort, income: int = 1) -> None:
    for signal, value in ((dut.beat_cost, 1), (dut.credit_income, income), (dut.credit_cap, 2)):
        ctx.set(signal, value)
    ctx.set(dut.latency, 8)
    ctx.set(dut.fetch.burst_last, 1)


@pytest.mark.pins("late_cycles")
def test_late_counts_each_cycle_that_a_due_beat_is_missing() -> None:
    """One beat, latency 8, answered in cycle 20: the delivery is in 23, that is 15 cycles late."""
    dut = one_requester()
    late, deliveries = [], []

    async def bench(ctx: Any) -> None:
        set_up(ctx, dut)
        ctx.set(dut.memory.request_ready, 1)
        for cycle in range(40):
            ctx.set(dut.fetch.request, cycle == 0)
            ctx.set(dut.memory.response_valid, cycle == 20)
            assert ctx.get(dut.idle) == (cycle < 1 or cycle > 20)
            if ctx.get(dut.late):
                late.append(cycle)
            if ctx.get(dut.fetch.delivered):
                deliveries.append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert deliveries == [23]
    assert len(late) == 23 - 8


@pytest.mark.pins("late_cycles")
@pytest.mark.parametrize(
    ("income", "held_back"),
    [
        # The beat of cycle 0 stands at the memory in 1..5; another is wanted in all of them, and
        # is granted in 5, in which the first one is taken.
        (1, [1, 2, 3, 4]),
        # Without credits nothing is held back: those of cycle 0 are spent, and none come.
        (0, []),
    ],
)
def test_late_counts_each_cycle_that_the_memory_holds_a_beat_back(
    income: int, held_back: list[int]
) -> None:
    """The memory takes nothing before cycle 5, and then answers in time."""
    dut = one_requester()
    grants: list[int] = []
    late, deliveries = [], []

    async def bench(ctx: Any) -> None:
        set_up(ctx, dut, income)
        answer = False
        for cycle in range(30):
            ctx.set(dut.fetch.request, len(grants) < 2)
            ctx.set(dut.memory.request_ready, cycle >= 5)
            ctx.set(dut.memory.response_valid, answer)
            answer = cycle >= 5 and bool(ctx.get(dut.memory.request_valid))
            if ctx.get(dut.late):
                late.append(cycle)
            if ctx.get(dut.fetch.delivered):
                deliveries.append(cycle)
            if ctx.get(dut.fetch.grant):
                grants.append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert grants == ([0, 5] if income else [0])
    # Answered in 6, the first beat is delivered in 9 and not in 8, which shows a cycle before.
    assert deliveries == ([9, 13] if income else [9])
    assert late == [*held_back, 7]


def test_a_stopped_run_withdraws_what_the_memory_has_not_seen() -> None:
    parameters = port(4, "4", 8)
    trace = run_port(parameters, cycles=60, seed=5, density=1.0, stop=30)
    assert max(beat.granted for beat in trace.granted) == 29
    stored = [b for b in trace.granted if b.requester == "store" and b.granted < 29]
    assert trace.writes == [(b.address, b.data, b.strobe) for b in stored]


def test_latency_limit_is_a_power_of_two_beyond_the_latency() -> None:
    assert [latency_limit(n) for n in (8, 40, 55, 56, 100, 500, 511)] == [
        64, 64, 64, 128, 128, 512, 1024,
    ]
