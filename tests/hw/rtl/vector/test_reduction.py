"""A lane's reduction over taps: beats of several channels in turn, with gaps and passes."""

import random

import pytest
from amaranth.sim import Simulator

from systol_hw.rtl.vector.reduction import RunningReduction


def wrap32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("beats", [1, 2, 5])
def test_rows_of_taps(beats: int, total: bool) -> None:
    rng = random.Random(beats)
    dut = RunningReduction(beats)

    def number() -> int:
        return rng.choice((-(1 << 31), (1 << 31) - 1, -1, wrap32(rng.getrandbits(32)) >> 20))

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.total, total)
        for _ in range(60):
            taps = [
                None if rng.random() < 0.3 else [number() for _ in range(beats)]
                for _ in range(rng.randint(1, 4))
            ]
            passes = rng.randint(0, 3)
            so_far: list[list[int]] = [[] for _ in range(beats)]
            for access in range(len(taps) + passes):
                tap = taps[access] if access < len(taps) else None
                for beat in range(beats):
                    ctx.set(dut.enable, 1)
                    # In a pass the held operand's other flags are still the last tap's.
                    ctx.set(dut.first, access == 0 or (access >= len(taps) == 1))
                    ctx.set(dut.none, tap is None and access < len(taps))
                    ctx.set(dut.again, access >= len(taps))
                    value = number() if tap is None else tap[beat]
                    ctx.set(dut.value, value & (1 << 34) - 1)
                    if tap is not None:
                        so_far[beat].append(value)
                    if total:
                        expected = wrap32(sum(so_far[beat]))
                    else:
                        expected = max([-(1 << 31), *so_far[beat]])
                    assert ctx.get(dut.following) & 0xFFFFFFFF == expected & 0xFFFFFFFF
                    await ctx.tick()
                    assert ctx.get(dut.reduced) & 0xFFFFFFFF == expected & 0xFFFFFFFF
                ctx.set(dut.enable, 0)
                ctx.set(dut.value, rng.getrandbits(34))
                for _ in range(rng.randint(0, 2)):
                    await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_one_tap_keeps_every_bit() -> None:
    """Operands of 34 bits pass through, and through a pass."""
    rng = random.Random(0)
    dut = RunningReduction(2)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.enable, 1)
        ctx.set(dut.first, 1)
        for _ in range(50):
            values = [rng.getrandbits(34) for _ in range(2)]
            for again in (0, 1):
                ctx.set(dut.again, again)
                for value in values:
                    ctx.set(dut.value, rng.getrandbits(34) if again else value)
                    await ctx.tick()
                    assert ctx.get(dut.reduced) == value

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
