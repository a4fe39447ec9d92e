"""The vector unit's write buffer under random pushes, beats and grants, against a plain list."""

import dataclasses
import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.rtl.vector.write_buffer import WriteBuffer


@pytest.mark.parametrize("grant_rate", [0.2, 0.9, 1.0])
@pytest.mark.parametrize(("lanes", "rows"), [(8, 1), (2, 3), (1, 8)])
def test_rows_are_written_once_in_order_and_whole(
    lanes: int, rows: int, grant_rate: float
) -> None:
    arch = dataclasses.replace(PRESETS["nano"], vector_lanes=lanes, vector_write_rows=rows)
    dut = WriteBuffer(arch)
    rng = random.Random(f"{lanes} {rows} {grant_rate}")
    beats = arch.vector_slot_cycles
    held: deque[dict[str, int]] = deque()  # pushed and not written
    unfilled: deque[dict[str, int]] = deque()  # pushed, their bytes still to come
    written, levels = 0, set()

    async def bench(ctx: Any) -> None:
        nonlocal written
        beat = 0
        for _ in range(1500):
            levels.add(len(held))
            assert ctx.get(dut.held) == len(held)
            push = len(held) < rows and rng.random() < 0.6
            row = {
                "address": rng.randrange(arch.ub_bytes),
                "length": rng.randint(1, arch.columns),
                "last": rng.random() < 0.3,
                "bytes": rng.getrandbits(8 * arch.columns),
                "whole": 0,
            }
            ctx.set(dut.push, push)
            for name in ("address", "length", "last"):
                ctx.set(getattr(dut, f"push_{name}"), row[name])
            fills = bool(unfilled) and rng.random() < 0.7
            ctx.set(dut.valid, fills)
            ctx.set(dut.beat, beat if fills else rng.randrange(beats))
            ctx.set(dut.beat_last, fills and beat == beats - 1)
            shown = unfilled[0]["bytes"] >> 8 * lanes * beat if fills else rng.getrandbits(64)
            ctx.set(dut.results, shown & ((1 << 8 * lanes) - 1))
            ctx.set(dut.ub_write.grant, rng.random() < grant_rate)

            # A row shows in the cycle after its last beat, and stands until it is granted.
            assert ctx.get(dut.ub_write.request) == bool(held and held[0]["whole"])
            done = bool(ctx.get(dut.ub_write.request) and ctx.get(dut.ub_write.grant))
            if ctx.get(dut.ub_write.request):
                assert ctx.get(dut.ub_write.address) == held[0]["address"]
                assert ctx.get(dut.ub_write.length) == held[0]["length"]
                assert ctx.get(dut.ub_write.data) == held[0]["bytes"]
            assert ctx.get(dut.end) == (done and held[0]["last"])
            await ctx.tick()
            if done:
                held.popleft()
                written += 1
            if fills:
                beat += 1
                if beat == beats:
                    unfilled.popleft()["whole"] = 1
                    beat = 0
            if push:
                held.append(row)
                unfilled.append(row)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert written > 50
    assert levels == set(range(rows + 1))
