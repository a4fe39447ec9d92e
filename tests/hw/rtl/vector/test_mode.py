"""The constants of a vector instruction: clips of every width, offsets, multipliers, counting."""

import random

from amaranth.lib import data
from amaranth.sim import Simulator

from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.vector.mode import ModeRegister, VectorMode

CLIPS = (-32768, -32640, -32639, -32638, -129, -128, -127, -1, 0, 126, 127, 128, 32638, 32639,
         32640, 32767)


def saturated(q: int, wide: bool) -> int:
    return min(max(q, -32639), 32639) if wide else min(max(q, -128), 127)


def modes_of(instructions: list[Instruction]) -> list[dict[str, int]]:
    """What the register holds in the cycle after each one's start."""
    dut = ModeRegister()
    modes = []

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for i in instructions:
            ctx.set(dut.word, int.from_bytes(encode(i), "little"))
            ctx.set(dut.start, 1)
            await ctx.tick()
            # It stays while other words pass.
            ctx.set(dut.start, 0)
            ctx.set(dut.word, (1 << 512) - 1)
            await ctx.tick()
            mode = ctx.get(dut.mode)
            names = [name for name, _ in data.Layout.cast(VectorMode)]
            modes.append({name: int(getattr(mode, name)) for name in names})

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return modes


def test_clip_behind_saturation_is_saturation_behind_clip() -> None:
    cases = [(width, low, high) for width in (0, 1) for low in CLIPS for high in CLIPS]
    modes = modes_of(
        [instruction("requantize", width=width, low=low, high=high) for width, low, high in cases]
    )
    points = sorted({clip + d for clip in CLIPS for d in (-1, 0, 1)} | {-99999, 99999})
    for (width, low, high), mode in zip(cases, modes, strict=True):
        assert mode["low"] <= mode["high"] and mode["wide"] == width
        for q in points:
            expected = saturated(min(max(q, low), high), bool(width))
            got = min(max(saturated(q, bool(width)), mode["low"]), mode["high"])
            assert got == expected, (width, low, high, q)


def test_constants_of_each_operation() -> None:
    """Others than those named are zero."""
    rng = random.Random(0)
    zp, za, zb, ma, mb, shift = -77, -128, 127, -(1 << 17), 99_999, rng.randint(1, 63)
    binary = dict(zero_point=zp, a_zero_point=za, b_zero_point=zb, a_multiplier=ma,
                  b_multiplier=mb, shift=shift)
    operands = dict(counted=1, binary=1, a_offset=128, b_offset=-127, multiplier_a=ma,
                    zero_point=zp, shift=shift)
    table = dict(counted=1, table=1, pair=1, a_offset=32768, multiplier_b=256, zero_point=zp,
                 shift=shift)
    cases: list[tuple[Instruction, dict[str, int]]] = [
        (instruction("requantize", zero_point=zp),
         dict(counted=1, channel_parameters=1, zero_point=zp)),
        (instruction("requantize", zero_point=zp, reduce=2),
         dict(counted=1, mean=1, sum=1, zero_point=zp)),
        (instruction("copy", zero_point=zp, reduce=1, width=2),
         dict(sum=1, raw=1, multiplier_a=1, multiplier_b=1)),
        (instruction("fill", zero_point=zp, width=1),
         dict(wide=1, a_offset=zp, multiplier_a=1, multiplier_b=1)),
        (instruction("binary", function=0, **binary), operands | dict(pair=1, multiplier_b=mb)),
        (instruction("binary", function=1, **binary), operands | dict(multiply=1, multiplier_b=ma)),
        (instruction("binary", function=2, **binary),
         operands | dict(pair=1, minimum=1, multiplier_b=mb)),
        (instruction("binary", function=3, **binary),
         operands | dict(pair=1, maximum=1, multiplier_b=mb)),
        (instruction("table", zero_point=zp, shift=shift), table | dict(narrow_table=1)),
        (instruction("table", zero_point=zp, shift=shift, table_width=1), table),
    ]
    for (i, expected), mode in zip(cases, modes_of([i for i, _ in cases]), strict=True):
        kept = {name: value for name, value in mode.items()
                if value and name not in ("low", "high")
                # A reduction of one tap has no kind.
                and (name != "sum" or i.operation.name in ("requantize", "copy"))}
        assert kept == expected, i.operation.name


def test_fill_is_not_clipped() -> None:
    fills = [instruction("fill", width=width, low=-1, high=-2) for width in (0, 1)]
    assert [(mode["low"], mode["high"]) for mode in modes_of(fills)] == [
        (-128, 127), (-32639, 32639)]
