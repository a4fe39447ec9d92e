"""Dispatch, against docs/timing.md, sections 2.3, 2.4 and 2.5."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.isa import OPERATION_BY_NAME, encode, instruction
from systol_hw.rtl.contract.widths import TOKEN_UNITS
from systol_hw.rtl.control.dispatch import CONFIGURATION, Dispatch
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

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


OWN = ("nop", "tag", "interrupt", "barrier", "halt", "sync_host", "set_config")


def test_dispatch_of_random_instructions_under_random_backpressure() -> None:
    """Every cycle; hosts acknowledge a sync at once, in time, or late."""
    dispatch = Dispatch(PRESETS["nano"])
    rng = random.Random(3)
    states: set[str] = set()
    late_syncs = 0

    async def bench(ctx):  # type: ignore[no-untyped-def]
        nonlocal late_syncs
        ctx.set(dispatch.code_length, 1 << 20)
        latency = 9
        ctx.set(dispatch.sync_latency, latency)
        tag = pc = 0
        for _ in range(600):
            unit = rng.choice(list(Unit))
            name = OPERATION_OF.get(unit) or rng.choice(OWN)
            fields = {}
            for field in ("tag", "value", "register"):
                if any(f.name == field for f in OPERATION_BY_NAME[name].fields):
                    low, high = OPERATION_BY_NAME[name].field(field).bounds(PRESETS["nano"])
                    fields[field] = rng.randint(low, high)
            ctx.set(dispatch.word, word(name, **fields))
            ctx.set(dispatch.pc, pc)
            seen = False
            reported = acknowledged = -1  # cycles of a sync, counted from its first sight
            thinking = rng.choice([0, latency - 1, latency, rng.randrange(3 * latency)])
            cycle = 0
            while True:
                visible = seen or rng.random() < 0.7
                full, quiet = rng.getrandbits(5), rng.choice([ALL, rng.getrandbits(5)])
                if reported >= 0:
                    quiet = ALL  # nothing was dispatched since
                ctx.set(dispatch.visible, visible)
                ctx.set(dispatch.full, full)
                ctx.set(dispatch.quiet, quiet)
                own = unit is Unit.CONTROL
                reports = late = waits_for_host = False
                if not visible:
                    state, leaves = "wait_fetch", False
                elif name == "sync_host":
                    reports = quiet == ALL and reported < 0
                    if reports:
                        reported = cycle
                    due = reported >= 0 and cycle >= reported + latency
                    leaves = due and 0 <= acknowledged < cycle
                    late = due and not leaves
                    state = "wait_quiet" if reported < 0 else "busy" if leaves else "wait_host"
                    waits_for_host = reported >= 0 and not 0 <= acknowledged < cycle
                elif own:
                    leaves = name not in ("barrier", "halt") or quiet == ALL
                    state = "busy" if leaves else "wait_quiet"
                else:
                    leaves = not full >> (unit - 1) & 1
                    state = "busy" if leaves else f"full_{unit.name.lower()}"
                states.add(state)
                late_syncs += late
                # An acknowledgement counts only while it is asked for.
                answers = waits_for_host and cycle >= reported + thinking
                ctx.set(dispatch.sync_ack, answers or (not waits_for_host and rng.random() < 0.5))
                assert ctx.get(dispatch.sync_valid) == waits_for_host
                assert ctx.get(dispatch.sync_late) == late
                if answers:
                    acknowledged = cycle
                assert ctx.get(dispatch.state) == CODES[state]
                assert ctx.get(dispatch.advance) == leaves
                assert ctx.get(dispatch.push) == (
                    1 << (unit - 1) if leaves and not own else 0
                )
                assert ctx.get(dispatch.tag) == tag
                assert ctx.get(dispatch.halt) == (leaves and name == "halt")
                interrupts = reports or (leaves and name == "interrupt")
                assert ctx.get(dispatch.interrupt) == interrupts
                if interrupts:
                    assert ctx.get(dispatch.interrupt_value) == fields["value"]
                configures = leaves and name == "set_config"
                assert ctx.get(dispatch.configure) == (
                    1 << fields["register"] if configures else 0
                )
                if configures:
                    assert ctx.get(dispatch.config_value) == fields["value"]
                assert not ctx.get(dispatch.illegal) and not ctx.get(dispatch.unsupported)
                assert ctx.get(dispatch.started) == (own and visible and not seen)
                assert ctx.get(dispatch.ended) == (own and leaves)
                await ctx.tick()
                seen = seen or visible
                cycle += 1
                if leaves:
                    break
            if name == "tag":
                tag = fields["tag"]
            pc += 1

    simulate(dispatch, bench)
    assert states == set(CODES) and late_syncs
    assert CONFIGURATION == ("watchdog", "status")


@pytest.mark.parametrize(
    ("code", "visible", "pc", "illegal", "unsupported"),
    [
        (word("nop") | 1 << 511, 1, 0, 1, 0),
        (word("set_config", register=2), 1, 0, 1, 0),
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
