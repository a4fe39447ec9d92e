"""The frame with a random engine, against a model written from docs/timing.md, section 5 and 8."""

import dataclasses
import random
from collections import deque
from dataclasses import dataclass

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.isa import encode, instruction, mask_of_units
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.widths import TOKEN_UNITS
from systol_hw.rtl.control.unit_frame import UnitFrame
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

ENGINE_STATE = 10


@dataclass(frozen=True, kw_only=True)
class Queued:
    """An instruction as the model sees it."""

    word: int
    wait: int
    signal: int
    drain: bool
    second: bool  # uses the second of the unit's two ports or sources
    pc: int
    tag: int


def random_instruction(rng: random.Random, unit: Unit, pc: int) -> Queued:
    operation = rng.choice([o for o in OPERATIONS if o.unit is unit and o.supported])
    others = [u for u in TOKEN_UNITS if u is not unit]
    wait = mask_of_units(u for u in others if rng.random() < 0.15)
    signal = mask_of_units(u for u in others if rng.random() < 0.3)
    drain = rng.random() < 0.2
    made = instruction(operation, wait=wait, signal=signal, drain=drain)
    return Queued(
        word=int.from_bytes(encode(made), "little"),
        wait=wait,
        signal=signal,
        drain=drain,
        second="host" in operation.name or operation.name == "read_weights_ub",
        pc=pc,
        tag=rng.randrange(16),
    )


def expected_start_state(
    head: Queued, unit: Unit, available: int, flight: int, limit: int, last_second: bool,
    ready: bool,
) -> str:
    for producer in TOKEN_UNITS:
        bit = 1 << (producer - 1)
        if head.wait & bit and not available & bit:
            return f"wait_{producer.name.lower()}"
    other_port = head.second != last_second
    if flight and (head.drain or other_port):
        return "wait_drain"
    if flight == limit:
        return "wait_inflight"
    if unit is Unit.VECTOR and not ready:
        return "wait_lanes"
    return "start"


@pytest.mark.parametrize("unit", TOKEN_UNITS, ids=lambda unit: unit.name.lower())
def test_frame(unit: Unit) -> None:
    arch = dataclasses.replace(PRESETS["nano"], queue_depth=3, inflight_instructions=3)
    frame = UnitFrame(arch, unit)
    rng = random.Random(int(unit))
    codes = {state.name: state.code for state in UNIT_STATES[unit]}
    names = {state.code: state.name for state in UNIT_STATES[unit]}
    seen: set[str] = set()

    async def bench(ctx):  # type: ignore[no-untyped-def]
        queue: deque[Queued] = deque()
        flight: deque[Queued] = deque()
        active: Queued | None = None
        last: Queued | None = None
        left = 0
        for cycle in range(4000):
            busy_phase = cycle // 100 % 2
            push = len(queue) < arch.queue_depth and rng.random() < (0.05, 0.6)[busy_phase]
            new = random_instruction(rng, unit, cycle)
            available = sum(1 << (u - 1) for u in TOKEN_UNITS if rng.random() < 0.6)
            ready = rng.random() < 0.7
            performed = active is not None and rng.random() < 0.7
            # The oldest may end unless it still has accesses before it.
            ends = bool(flight) and flight[0] is not active and rng.random() < 0.15
            fault = rng.random() < 0.1
            ctx.set(frame.push, push)
            ctx.set(frame.push_word, new.word)
            ctx.set(frame.push_pc, new.pc)
            ctx.set(frame.push_tag, new.tag)
            ctx.set(frame.available, available)
            ctx.set(frame.engine.ready, ready)
            ctx.set(frame.engine.performed, performed)
            ctx.set(frame.engine.last, left == 1)
            ctx.set(frame.engine.state, ENGINE_STATE)
            ctx.set(frame.engine.end, ends)
            ctx.set(frame.engine.address_fault, fault)

            state, tag, starts = "idle", 0, False
            if active is not None:
                state, tag = names.get(ENGINE_STATE, "engine"), active.tag
            elif queue:
                last_second = bool(last and last.second)
                state = expected_start_state(
                    queue[0], unit, available, len(flight), arch.inflight_instructions,
                    last_second, ready,
                )
                tag, starts = queue[0].tag, state == "start"
            elif flight:
                assert last is not None
                state, tag = "flight", last.tag
            seen.add(state)
            code = ENGINE_STATE if active is not None else codes[state]
            assert ctx.get(frame.state) == code, state
            assert ctx.get(frame.state_tag) == tag
            assert ctx.get(frame.started) == ctx.get(frame.engine.start) == starts
            assert ctx.get(frame.consume) == (queue[0].wait if starts else 0)
            if starts:
                assert ctx.get(frame.engine.word) == queue[0].word
                assert ctx.get(frame.start_pc) == queue[0].pc
            assert ctx.get(frame.give) == (flight[0].signal if ends else 0)
            assert ctx.get(frame.ended) == ends
            if flight:
                assert ctx.get(frame.engine.retire_tag) == flight[0].tag
                assert ctx.get(frame.end_pc) == flight[0].pc
            assert ctx.get(frame.engine.active) == (active is not None)
            assert ctx.get(frame.address_fault) == (active is not None and fault)
            if active is not None:
                assert ctx.get(frame.active_pc) == active.pc
                assert ctx.get(frame.active_tag) == active.tag
            assert ctx.get(frame.level) == len(queue)
            assert ctx.get(frame.full) == (len(queue) == arch.queue_depth)
            assert ctx.get(frame.quiet) == (not queue and not flight)
            await ctx.tick()

            if ends:
                flight.popleft()
            if performed:
                left -= 1
                if left == 0:
                    active = None
            if starts:
                active = last = queue.popleft()
                flight.append(active)
                left = rng.choice((1, 1, 2, 5))
            if push:
                queue.append(new)

    simulator = Simulator(frame)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    waits = {f"wait_{u.name.lower()}" for u in TOKEN_UNITS if u is not unit}
    expected = {"idle", "start", "flight", "wait_drain", "wait_inflight"} | waits
    if unit is Unit.VECTOR:
        expected.add("wait_lanes")
    assert expected <= seen
