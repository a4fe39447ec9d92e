"""The accumulators against sections 4.3 and 6.6 of the timing contract."""

import random
from dataclasses import replace
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.rtl.memory.accumulators import Accumulators

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
@pytest.mark.parametrize("shifts", [(0,), (0, 1, 2)], ids=["unshifted", "all shifts"])
def test_random_traffic(machine: str, rows_used: int | None, shifts: tuple[int, ...]) -> None:
    arch = MACHINES[machine]
    rng = random.Random(f"{machine} {rows_used} {shifts}")
    added, beyond = run(arch, rng, rows_used, shifts)
    # The limits are within reach where sums are wide or shifted.
    assert added or (arch.rows < 256 and len(shifts) == 1)
    assert bool(beyond) == (len(shifts) > 1)


def run(
    arch: Arch, rng: random.Random, rows_used: int | None, shifts: tuple[int, ...]
) -> tuple[int, int]:
    """Claims of random rows, many of them the same again.

    Returns the number of overflows of sums that 32 bits hold, and of sums that they do not.
    """
    columns, rows = arch.columns, arch.accumulator_rows
    half = rows // 2
    top = arch.rows * 128 * 128  # a sum of the array lies in -top..top
    used = rng.sample(range(rows), rows_used) if rows_used else list(range(rows))
    dut = Accumulators(arch)
    state: dict[int, list[int]] = {}
    last_claim = dict.fromkeys(range(rows), -9)
    overflowed = [0, 0]

    async def claim(ctx: Any, row: int, accumulate: bool, sums: list[int]) -> None:
        """`sums` are exact, of more than 32 bits where they are shifted."""
        ctx.set(dut.matrix.valid, 1)
        ctx.set(dut.matrix.row, row)
        ctx.set(dut.matrix.accumulate, accumulate)
        for column in range(columns):
            ctx.set(dut.matrix.sums[column], wrap(sums[column]))
            ctx.set(dut.matrix.beyond[column], wrap(sums[column]) != sums[column])

    async def bench(ctx: Any) -> None:
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
                    away = top if state.get(row, [0])[0] >= 0 else -top
                    sums = [rng.choice([away, away, rng.randint(-top, top)])] * columns
                else:
                    sums = [rng.randint(-top, top) for _ in range(columns)]
                scale = 256 ** rng.choice(shifts)
                sums = [value * scale for value in sums]
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
                pairs = list(zip(old, sums, strict=True))
                state[row] = [wrap(base + t) for base, t in pairs]
                beyond = sum(wrap(t) != t for t in sums)
                added = sum(
                    wrap(t) == t and wrap(base + t) != base + t for base, t in pairs
                )
                # Beyond and wrapped together is one overflow, as numerics.md, 2 says.
                expected_overflows = beyond + added
                overflowed[0] += added
                overflowed[1] += beyond
                last_claim[row] = cycle
            await ctx.tick()

    async def start_near_the_limits(ctx: Any) -> None:
        """Where 300 additions come near, rows begin near a limit."""
        for row in used if arch.rows == 256 else ():
            value = rng.choice([top, -top])
            turns = (1 << 31) // top - 2
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
    return overflowed[0], overflowed[1]
