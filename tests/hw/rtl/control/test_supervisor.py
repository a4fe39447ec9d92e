"""The supervisor, against docs/timing.md, sections 5.6 and 5.7."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.rtl.contract.widths import TOKEN_UNITS
from systol_hw.rtl.control.dispatch import CONFIGURATION
from systol_hw.rtl.control.supervisor import Supervisor
from systol_hw.tables.faults import FaultCause, Unit

WATCHDOG, STATUS = (1 << CONFIGURATION.index(name) for name in ("watchdog", "status"))


def simulate(component: Any, bench: Any) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def begin(ctx: Any, supervisor: Supervisor, watchdog: int) -> None:
    """Run the supervisor to cycle 0."""
    ctx.set(supervisor.watchdog_cycles, watchdog)
    ctx.set(supervisor.drained, 1)
    ctx.set(supervisor.progress, 0)
    ctx.set(supervisor.start, 1)
    await ctx.tick()
    ctx.set(supervisor.start, 0)
    cleared = set()
    while not ctx.get(supervisor.running):
        assert ctx.get(supervisor.busy)
        assert not ctx.get(supervisor.halted) and not ctx.get(supervisor.faulted)
        cleared.add(ctx.get(supervisor.clear_address) & 0xFF)
        await ctx.tick()
    assert cleared == set(range(256)), "every counter address is cleared"
    assert ctx.get(supervisor.cycle) == 0


def test_cycle_0_waits_for_what_is_outstanding() -> None:
    supervisor = Supervisor(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(supervisor.start, 1)
        await ctx.tick()
        ctx.set(supervisor.start, 0)
        await ctx.tick().repeat(600)
        assert ctx.get(supervisor.clearing) and not ctx.get(supervisor.running)
        ctx.set(supervisor.drained, 1)
        await ctx.tick()
        assert ctx.get(supervisor.running) and not ctx.get(supervisor.clearing)

    simulate(supervisor, bench)


def test_watchdog_counts_cycles_without_progress() -> None:
    supervisor = Supervisor(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        await begin(ctx, supervisor, 5)
        ctx.set(supervisor.pc, 77)
        last_progress = 6
        for cycle in range(last_progress + 6):
            assert ctx.get(supervisor.running), cycle
            assert ctx.get(supervisor.cycle) == cycle
            ctx.set(supervisor.progress, cycle in (3, last_progress))
            await ctx.tick()
            if cycle == last_progress + 5:
                break
        assert ctx.get(supervisor.faulted) and not ctx.get(supervisor.running)
        assert ctx.get(supervisor.fault_cause) == FaultCause.WATCHDOG
        assert ctx.get(supervisor.fault_unit) == Unit.CONTROL
        assert ctx.get(supervisor.fault_pc) == 77
        assert ctx.get(supervisor.fault_cycle) == last_progress + 5
        assert ctx.get(supervisor.cycle) == last_progress + 6

    simulate(supervisor, bench)


def test_of_several_faults_the_first_unit_is_reported() -> None:
    supervisor = Supervisor(PRESETS["nano"])
    rng = random.Random(5)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for _ in range(40):
            illegal, unsupported = rng.choice([(0, 0), (0, 0), (0, 0), (1, 0), (0, 1)])
            addresses, overflows = rng.getrandbits(5), rng.getrandbits(5) & rng.getrandbits(5)
            halt = not (illegal or unsupported or addresses or overflows)
            await begin(ctx, supervisor, 1000)
            ctx.set(supervisor.pc, 9)
            ctx.set(supervisor.illegal, illegal)
            ctx.set(supervisor.unsupported, unsupported)
            ctx.set(supervisor.halt, halt)
            ctx.set(supervisor.address_fault, addresses)
            ctx.set(supervisor.token_overflow, overflows)
            for unit in TOKEN_UNITS:
                ctx.set(supervisor.active_pc[unit - 1], 100 + unit)
                ctx.set(supervisor.end_pc[unit - 1], 200 + unit)
            await ctx.tick()
            for signal in (
                supervisor.illegal, supervisor.unsupported, supervisor.halt,
                supervisor.address_fault, supervisor.token_overflow,
            ):
                ctx.set(signal, 0)
            assert not ctx.get(supervisor.running)
            assert ctx.get(supervisor.halted) == halt
            assert ctx.get(supervisor.faulted) == (not halt)
            if halt:
                continue
            if illegal or unsupported:
                cause = FaultCause.ILLEGAL_INSTRUCTION if illegal else FaultCause.UNSUPPORTED
                expected = (cause, Unit.CONTROL, 9)
            else:
                both = addresses | overflows
                first = Unit((both & -both).bit_length())
                address = addresses >> (first - 1) & 1
                cause = FaultCause.ADDRESS if address else FaultCause.TOKEN_OVERFLOW
                expected = (cause, first, (100 if address else 200) + first)
            found = (
                ctx.get(supervisor.fault_cause),
                ctx.get(supervisor.fault_unit),
                ctx.get(supervisor.fault_pc),
            )
            assert found == expected

    simulate(supervisor, bench)


@pytest.mark.parametrize(
    ("host", "written", "limit"), [(9, 4, 4), (4, 9, 4), (9, 0, 1), (9, 1, 1), (9, 1 << 31, 9)]
)
def test_the_programs_watchdog_holds_from_the_next_cycle_on(
    host: int, written: int, limit: int
) -> None:
    """set_config in cycle 3 is progress itself, so the run ends in cycle 3 + limit."""
    supervisor = Supervisor(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for _ in range(2):  # a run starts with the host's limit again
            await begin(ctx, supervisor, host)
            cycle = 0
            while ctx.get(supervisor.running):
                now = cycle == 3
                ctx.set(supervisor.progress, cycle <= 3)
                ctx.set(supervisor.configure, WATCHDOG if now else 0)
                ctx.set(supervisor.config_value, written if now else 77)
                assert cycle < 100
                await ctx.tick()
                cycle += 1
            assert ctx.get(supervisor.fault_cause) == FaultCause.WATCHDOG
            assert ctx.get(supervisor.fault_cycle) == 3 + limit

    simulate(supervisor, bench)


def test_a_later_limit_replaces_an_earlier_one() -> None:
    supervisor = Supervisor(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        await begin(ctx, supervisor, 8)
        for value in (2, 100):
            ctx.set(supervisor.progress, 1)
            ctx.set(supervisor.configure, WATCHDOG)
            ctx.set(supervisor.config_value, value)
            await ctx.tick()
        ctx.set(supervisor.progress, 0)
        ctx.set(supervisor.configure, 0)
        for _ in range(8):
            assert ctx.get(supervisor.running)
            await ctx.tick()
        assert ctx.get(supervisor.faulted) and ctx.get(supervisor.fault_cycle) == 1 + 8

    simulate(supervisor, bench)


def test_the_status_word_stays_until_the_next_start() -> None:
    supervisor = Supervisor(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for value in (0xDEADBEEF, 1):
            await begin(ctx, supervisor, 100)
            assert ctx.get(supervisor.status) == 0
            ctx.set(supervisor.configure, STATUS)
            ctx.set(supervisor.config_value, value)
            await ctx.tick()
            ctx.set(supervisor.configure, 0)
            ctx.set(supervisor.config_value, 5)
            assert ctx.get(supervisor.status) == value
            ctx.set(supervisor.halt, 1)
            await ctx.tick()
            ctx.set(supervisor.halt, 0)
            ctx.set(supervisor.configure, STATUS)
            await ctx.tick()
            ctx.set(supervisor.configure, 0)
            assert ctx.get(supervisor.status) == value, "nothing is written when no run is on"

    simulate(supervisor, bench)
