"""Dispatch and supervisor, against docs/timing.md, sections 2.3, 2.4, 5.6 and 5.7."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.counters import UNIT_STATES
from systol_hw.faults import FaultCause, Unit
from systol_hw.isa import encode, instruction
from systol_hw.rtl.control import Dispatch, Supervisor
from systol_hw.rtl.tokens import TOKEN_UNITS

CODES = {state.name: state.code for state in UNIT_STATES[Unit.CONTROL]}
OPERATION_OF = {
    Unit.LOAD: "read_host",
    Unit.STORE: "write_host",
    Unit.WEIGHTS: "read_weights",
    Unit.MATRIX: "matmul",
    Unit.VECTOR: "copy",
}
ALL = (1 << len(TOKEN_UNITS)) - 1


def word(name: str, **fields: int) -> int:
    return int.from_bytes(encode(instruction(name, **fields)), "little")


def simulate(component: Any, bench: Any) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_dispatch_of_random_instructions_under_random_backpressure() -> None:
    dispatch = Dispatch(PRESETS["nano"])
    rng = random.Random(3)
    states: set[str] = set()

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dispatch.code_length, 1 << 20)
        tag = pc = 0
        for _ in range(500):
            unit = rng.choice(list(Unit))
            value = rng.randrange(16)
            name = OPERATION_OF.get(unit) or rng.choice(
                ["nop", "tag", "interrupt", "barrier", "halt"]
            )
            fields = {"tag": {"tag": value}, "interrupt": {"value": value}}.get(name, {})
            ctx.set(dispatch.word, word(name, **fields))
            ctx.set(dispatch.pc, pc)
            first = True
            while True:
                visible = not first or rng.random() < 0.7
                full, quiet = rng.getrandbits(5), rng.choice([ALL, rng.getrandbits(5)])
                ctx.set(dispatch.visible, visible)
                ctx.set(dispatch.full, full)
                ctx.set(dispatch.quiet, quiet)
                own = unit is Unit.CONTROL
                if not visible:
                    state, leaves = "wait_fetch", False
                elif own:
                    leaves = name not in ("barrier", "halt") or quiet == ALL
                    state = "busy" if leaves else "wait_quiet"
                else:
                    leaves = not full >> (unit - 1) & 1
                    state = "busy" if leaves else f"full_{unit.name.lower()}"
                states.add(state)
                assert ctx.get(dispatch.state) == CODES[state]
                assert ctx.get(dispatch.advance) == leaves
                assert ctx.get(dispatch.push) == (
                    1 << (unit - 1) if leaves and not own else 0
                )
                assert ctx.get(dispatch.tag) == tag
                assert ctx.get(dispatch.halt) == (leaves and name == "halt")
                assert ctx.get(dispatch.interrupt) == (leaves and name == "interrupt")
                if leaves and name == "interrupt":
                    assert ctx.get(dispatch.interrupt_value) == value
                assert not ctx.get(dispatch.illegal) and not ctx.get(dispatch.unsupported)
                assert ctx.get(dispatch.started) == (own and visible and first)
                assert ctx.get(dispatch.ended) == (own and leaves)
                await ctx.tick()
                first = first and not visible
                if leaves:
                    break
            if name == "tag":
                tag = value
            pc += 1

    simulate(dispatch, bench)
    assert states == set(CODES)


@pytest.mark.parametrize(
    ("code", "visible", "pc", "illegal", "unsupported"),
    [
        (word("nop") | 1 << 511, 1, 0, 1, 0),
        (word("sync_host"), 1, 0, 0, 1),
        (word("nop") | 1 << 511, 0, 0, 0, 0),
        (word("nop"), 0, 5, 1, 0),
    ],
)
def test_dispatch_faults(code: int, visible: int, pc: int, illegal: int, unsupported: int) -> None:
    dispatch = Dispatch(PRESETS["nano"])

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dispatch.code_length, 5)
        ctx.set(dispatch.pc, pc)
        ctx.set(dispatch.word, code)
        ctx.set(dispatch.visible, visible)
        assert ctx.get(dispatch.illegal) == illegal
        assert ctx.get(dispatch.unsupported) == unsupported
        assert not ctx.get(dispatch.advance)
        expected = "busy" if illegal or unsupported else "wait_fetch"
        assert ctx.get(dispatch.state) == CODES[expected]

    simulate(dispatch, bench)


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
