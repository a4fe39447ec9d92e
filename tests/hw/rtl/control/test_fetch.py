"""Fetch under random grants, latencies and dispatch, against docs/timing.md, 2.1 and 2.2."""

import dataclasses
import random
from collections import deque
from fractions import Fraction

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, MemoryPort
from systol_hw.rtl.control.fetch import Fetch


@pytest.mark.parametrize(("width", "depth", "burst"), [(4, 4, 64), (1, 3, 16), (64, 1, 64)])
@pytest.mark.parametrize("stalls", [0.0, 0.5])
def test_fetch(width: int, depth: int, burst: int, stalls: float) -> None:
    port = MemoryPort(width_bytes=width, bytes_per_cycle=Fraction(width), latency_cycles=8)
    arch = dataclasses.replace(
        PRESETS["nano"],
        rows=64,
        columns=64,
        weight_port=port,
        burst_bytes=burst,
        fetch_buffer_instructions=depth,
    )
    fetch = Fetch(arch)
    rng = random.Random(width)
    length, address = 9, 0x1C0
    code = rng.randbytes(length * 64)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(fetch.code_address, address)
        ctx.set(fetch.code_length, length)
        issued = delivered = dispatched = 0  # bytes, bytes, instructions
        in_flight: deque[tuple[int, int]] = deque()
        for cycle in range(4000):
            if dispatched == length:
                break
            instruction = issued // 64
            presents = instruction < length and (
                issued % 64 > 0 or instruction - dispatched < depth
            )
            assert ctx.get(fetch.beat.request) == presents
            granted = presents and rng.random() >= stalls
            if presents:
                assert ctx.get(fetch.beat.address) == address + issued
                end = address + issued + width
                last = end % burst == 0 or end % 64 == 0
                assert ctx.get(fetch.beat.burst_last) == last
            ctx.set(fetch.beat.grant, granted)
            if granted:
                in_flight.append((cycle + rng.randint(2, 6), issued))
                issued += width
            arrives = bool(in_flight) and in_flight[0][0] <= cycle
            visible = delivered // 64 > dispatched
            assert ctx.get(fetch.visible) == visible
            assert ctx.get(fetch.pc) == dispatched
            if visible:
                expected = code[64 * dispatched : 64 * dispatched + 64]
                assert ctx.get(fetch.word) == int.from_bytes(expected, "little")
            ctx.set(fetch.beat.delivered, arrives)
            if arrives:
                _, place = in_flight.popleft()
                data = int.from_bytes(code[place : place + width], "little")
                ctx.set(fetch.beat.read_data, data)
                delivered += width
            advance = visible and rng.random() >= stalls
            ctx.set(fetch.advance, advance)
            dispatched += advance
            await ctx.tick()
        assert dispatched == length

    simulator = Simulator(fetch)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
