"""The accumulators against sections 4.3 and 6.6 of the timing contract."""

import random
from dataclasses import replace
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.rtl.accumulators import Accumulators
from systol_hw.rtl.interfaces import array_sum_bits

NANO = PRESETS["nano"]
MACHINES = {
    "nano": replace(NANO, accumulator_rows=16),
    "4x6": replace(NANO, rows=4, columns=6, accumulator_rows=4),
    "256x6": replace(NANO, rows=256, columns=6, accumulator_rows=8),
}


def wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("rows_used", [1, 2, None], ids=["one row", "two rows", "all rows"])
def test_random_traffic(machine: str, rows_used: int | None) -> None:
    arch = MACHINES[machine]
    rng = random.Random(f"{machine} {rows_used}")
    overflowed = run(arch, rng, rows_used)
    # The limits are within reach where sums are wide.
    assert overflowed or arch.rows < 256


def run(arch: Arch, rng: random.Random, rows_used: int | None) -> int:
    """Claims of random rows, many of them the same again; returns the number of overflows."""
    columns, rows = arch.columns, arch.accumulator_rows
    half = rows // 2
    bits = array_sum_bits(arch)
    top = (1 << (bits - 1)) - 1
    used = rng.sample(range(rows), rows_used) if rows_used else list(range(rows))
    dut = Accumulators(arch)
    state: dict[int, list[int]] = {}
    last_claim = dict.fromkeys(range(rows), -9)
    overflowed = 0

    async def claim(ctx: Any, row: int, accumulate: bool, sums: list[int]) -> None:
        ctx.set(dut.matrix.valid, 1)
        ctx.set(dut.matrix.row, row)
        ctx.set(dut.matrix.accumulate, accumulate)
        for column in range(columns):
            ctx.set(dut.matrix.sums[column], sums[column])

    async def bench(ctx: Any) -> None:
        nonlocal overflowed
        expected_overflows: int | None = None
        expected_read: list[int] | None = None
        for cycle in range(500):
            done = expected_overflows is not None
            assert ctx.get(dut.matrix.done) == done, f"cycle {cycle}"
            assert ctx.get(dut.matrix.overflows) == (expected_overflows or 0), f"cycle {cycle}"
            if expected_read is not None:
                shown = [wrap(ctx.get(dut.vector.data[c])) for c in range(columns)]
                assert shown == expected_read, f"cycle {cycle}"
            expected_overflows = expected_read = None

            # Near the limits in turns: then additions wrap both ways.
            row = rng.choice(used)
            matrix = rng.random() < 0.7
            if matrix:
                # The second half sets rows as well; in the first they pass their limits.
                accumulate = row in state and (cycle < 250 or rng.random() < 0.9)
                if cycle % 100 < 80:
                    away = top if state.get(row, [0])[0] >= 0 else -top - 1
                    sums = [rng.choice([away, away, rng.randint(-top, top)])] * columns
                else:
                    sums = [rng.randint(-top - 1, top) for _ in range(columns)]
                await claim(ctx, row, accumulate, sums)
            else:
                ctx.set(dut.matrix.valid, 0)
                ctx.set(dut.matrix.row, rng.randrange(rows))
                ctx.set(dut.matrix.accumulate, rng.random() < 0.5)

            # A program never reads a row whose write is under way.
            readable = [r for r in state if last_claim[r] < cycle - 1 and not (matrix and r == row)]
            reads = bool(readable) and rng.random() < 0.6
            ctx.set(dut.vector.request, reads)
            if reads:
                read_row = rng.choice(readable)
                ctx.set(dut.vector.row, read_row)
                granted = not (matrix and row // half == read_row // half)
                assert ctx.get(dut.vector.grant) == granted, f"cycle {cycle}"
                if granted:
                    expected_read = list(state[read_row])
            else:
                assert not ctx.get(dut.vector.grant)

            if matrix:
                old = state[row] if accumulate else [0] * columns
                exact = [a + b for a, b in zip(old, sums, strict=True)]
                state[row] = [wrap(value) for value in exact]
                expected_overflows = sum(wrap(value) != value for value in exact)
                overflowed += expected_overflows
                last_claim[row] = cycle
            await ctx.tick()

    async def start_near_the_limits(ctx: Any) -> None:
        """Where 300 additions come near, rows begin near a limit."""
        for row in used if arch.rows == 256 else ():
            value = rng.choice([top, -top - 1])
            turns = (1 << 31) // (top + 1) - 2
            for turn in range(turns):
                await claim(ctx, row, turn > 0, [value] * columns)
                await ctx.tick()
            state[row] = [value * turns] * columns
        ctx.set(dut.matrix.valid, 0)
        await ctx.tick().repeat(2)
        await bench(ctx)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(start_near_the_limits)
    simulator.run()
    return overflowed
