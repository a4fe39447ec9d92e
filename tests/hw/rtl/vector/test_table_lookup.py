"""A lane's table: every knot and every operand of both kinds, a look-up a cycle."""

import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from systol_hw.rtl.vector.table_lookup import TableLookup, table_words


@pytest.mark.parametrize("narrow", [False, True])
def test_every_knot(narrow: bool) -> None:
    """u over -128..65407 in uneven steps, among them both sides of every knot."""
    rng = random.Random(narrow)
    size = 256 if narrow else 257
    raw = rng.randbytes(size if narrow else 2 * size)
    width = 1 if narrow else 2
    knots = [
        int.from_bytes(raw[width * k : width * (k + 1)], "little", signed=True)
        for k in range(size)
    ]
    operands = [-128, -1] + [256 * k + part for k in range(255) for part in (0, 1, 255)]
    operands += [65280, 65407]
    rng.shuffle(operands)

    module = Module()
    module.submodules.dut = dut = TableLookup()
    read = Signal(64)
    module.d.comb += dut.write_data.eq(table_words(read, dut.narrow))

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.narrow, narrow)
        ctx.set(dut.write, 1)
        for index in range(-(-len(raw) // 8)):
            # Bytes behind the table's end are whatever the buffer holds there.
            piece = raw[8 * index : 8 * index + 8].ljust(8, b"\xa5")
            ctx.set(dut.write_index, index)
            ctx.set(read, int.from_bytes(piece, "little"))
            await ctx.tick()
        ctx.set(dut.write, 0)
        ctx.set(read, rng.getrandbits(64))
        for before, now in zip([None, *operands], [*operands, 0], strict=True):
            # Only 17 bits are u's.
            ctx.set(dut.following, now & 0x1FFFF | rng.getrandbits(17) << 17)
            if before is not None:
                u = max(before, 0)
                index, part = divmod(u, 256)
                assert ctx.get(dut.knot) == knots[index], before
                assert ctx.get(dut.fraction) == (0 if narrow else part)
                if not narrow:
                    assert ctx.get(dut.difference) == knots[index + 1] - knots[index]
            value = ctx.get(dut.following)
            await ctx.tick()
            ctx.set(dut.value, value)

    simulator = Simulator(module)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
