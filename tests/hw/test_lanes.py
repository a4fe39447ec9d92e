"""The vector lanes' arithmetic against integers, exactly."""

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch
from systol_hw.rtl.lanes import REQUANTIZE_CYCLES, Requantizer, VectorLanes

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
MULTIPLIER = st.integers(-(1 << 17), (1 << 17) - 1)
SHIFT = st.integers(0, 63)
BYTE = st.integers(-128, 127)


def wrap32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def requantized(
    value: int, bias: int, multiplier: int, shift: int, zero_point: int, low: int, high: int
) -> tuple[int, bool, bool]:
    """Byte, saturated, wrapped; rounding by Python's own half-to-even of an exact fraction."""
    total = value + bias
    q = round(Fraction(wrap32(total) * multiplier, 1 << shift)) + zero_point
    byte = max(-128, min(127, q))
    return min(max(byte, low), high), byte != q, wrap32(total) != total


def run(module: object, bench: Callable[..., object]) -> None:
    simulator = Simulator(module)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


Case = tuple[int, int, int, int]


def check_requantizer(cases: list[Case], zero_point: int, low: int, high: int) -> None:
    """One value a cycle, each with its own parameters, which arrive at their own stages."""
    dut = Requantizer()
    expected = [requantized(*case, zero_point, low, high) for case in cases]

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.zero_point, zero_point)
        ctx.set(dut.low, low)
        ctx.set(dut.high, high)
        for t in range(len(cases) + REQUANTIZE_CYCLES):
            for place, stage, port in ((0, 0, dut.value), (1, 0, dut.bias),
                                       (2, 1, dut.multiplier), (3, 3, dut.shift)):
                if 0 <= t - stage < len(cases):
                    ctx.set(port, cases[t - stage][place])
            if 0 <= t - 1 < len(cases):
                assert ctx.get(dut.wrapped) == expected[t - 1][2], cases[t - 1]
            done = t - REQUANTIZE_CYCLES
            if done >= 0:
                byte, saturated, _ = expected[done]
                assert ctx.get(dut.result) == byte, (cases[done], zero_point, low, high)
                assert ctx.get(dut.saturated) == saturated, (cases[done], zero_point)
            await ctx.tick()

    run(dut, bench)


ENDS = (-(1 << 31), -(1 << 31) + 1, -1, 0, 1, (1 << 31) - 1)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(INT32, INT32, MULTIPLIER, SHIFT), min_size=1, max_size=60),
    BYTE, BYTE, BYTE,
)
@example([(v, 0, m, s) for v in ENDS for m in (-(1 << 17), -1, 0, 1, (1 << 17) - 1)
          for s in (0, 1, 31, 47, 48, 49, 50, 63)], 0, -128, 127)
def test_requantizer_is_exact(cases: list[Case], zero_point: int, a: int, b: int) -> None:
    check_requantizer(cases, zero_point, min(a, b), max(a, b))


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 77, 127])
def test_ties_and_edges_of_saturation(zero_point: int) -> None:
    """Quotients at and beside every half near the ends of the byte range, at every shift."""
    rng = random.Random(zero_point)
    cases = []
    for shift in range(0, 40):
        for _ in range(12):
            target = rng.choice((-129, -128, -127, -1, 0, 1, 126, 127, 128)) - zero_point
            doubled = (2 * target + rng.choice((-1, 0, 1))) << shift
            product = doubled // 2 + rng.choice((-1, 0, 0, 1))
            multiplier = rng.choice((1, -1, 1 << min(shift, 16), -(1 << min(shift, 17))))
            value = max(-(1 << 31), min((1 << 31) - 1, product // multiplier))
            cases.append((value, 0, multiplier, shift))
    saturated = sum(requantized(*case, zero_point, -128, 127)[1] for case in cases)
    assert 0 < saturated < len(cases)
    check_requantizer(cases, zero_point, -128, 127)


EDGE = PRESETS["edge16"]
SHAPES = {
    "edge16": EDGE,
    "nano": PRESETS["nano"],
    "one lane": replace(PRESETS["nano"], name="one_lane", rows=16, columns=4, vector_lanes=1),
    "a lane a column": replace(PRESETS["nano"], name="full", columns=6, vector_lanes=6),
    "three of twelve": replace(PRESETS["nano"], name="odd", columns=12, vector_lanes=3),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", ["requantize", "copy", "fill"])
def test_rows_through_the_lanes(shape: str, operation: str) -> None:
    """Rows of several taps, as dense as the lanes take them and with gaps; results on time."""
    for seed in range(3):
        check_lanes(SHAPES[shape], operation, random.Random(seed))


def check_lanes(arch: Arch, operation: str, rng: random.Random) -> None:
    dut = VectorLanes(arch)
    columns, lanes, slots = arch.columns, arch.vector_lanes, arch.vector_slot_cycles
    live = rng.randint(1, columns)
    zero_point, low, high = (rng.randint(-128, 127) for _ in range(3))
    parameters = [
        (wrap32(rng.getrandbits(32)) >> rng.choice((0, 8, 20)),
         rng.randint(-(1 << 17), (1 << 17) - 1), rng.randint(10, 45))
        for _ in range(columns)
    ]
    raw = b"".join(
        (b & 0xFFFFFFFF | (m & 0x3FFFF) << 32 | rng.getrandbits(6) << 50 | s << 56
         | rng.getrandbits(2) << 62).to_bytes(8, "little")
        for b, m, s in parameters
    )
    source_ub = rng.random() < 0.5

    def value() -> int:
        if source_ub:
            return rng.randint(-128, 127)
        return rng.choice((wrap32(rng.getrandbits(32)) >> rng.choice((0, 12, 24)), *ENDS))

    taps: list[tuple[bool, bool, list[int] | None]] = []
    outputs: list[list[int]] = []
    saturations = overflows = 0
    for _ in range(12):
        count = 1 if operation == "fill" else rng.randint(1, 4)
        row = [
            None if operation == "fill" or rng.random() < 0.3 else [value() for _ in range(columns)]
            for _ in range(count)
        ]
        taps += [(k == 0, k == count - 1, tap) for k, tap in enumerate(row)]
        output = []
        for c in range(columns):
            v = max([-(1 << 31), *(tap[c] for tap in row if tap is not None)])
            if operation == "requantize":
                byte, sat, wrapped = requantized(v, *parameters[c], zero_point, low, high)
                saturations += sat and c < live
                overflows += wrapped and c < live
            else:
                byte = zero_point if operation == "fill" else min(max(v, low), high)
            output.append(byte)
        outputs.append(output)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.start, 1)
        ctx.set(dut.requantize, operation == "requantize")
        ctx.set(dut.fill, operation == "fill")
        ctx.set(dut.zero_point, zero_point)
        ctx.set(dut.low, low)
        ctx.set(dut.high, high)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for port in (dut.zero_point, dut.low, dut.high):
            ctx.set(port, 5)
        width = arch.ub_width_bytes
        if operation == "requantize":
            for index in range(-(-8 * live // width)):
                piece = raw[index * width : min((index + 1) * width, 8 * live)]
                ctx.set(dut.parameter, 1)
                ctx.set(dut.parameter_index, index)
                ctx.set(dut.parameter_channels, live)
                ctx.set(dut.parameter_data, int.from_bytes(piece.ljust(width, b"\xa5"), "little"))
                await ctx.tick()
            ctx.set(dut.parameter, 0)
        waiting, due = list(taps), list[int]()
        results: list[bytearray] = []
        counted = [0, 0]
        operand: list[int] | None = None
        cool, t = 0, 0
        rows = [bytearray() for _ in outputs]
        while waiting or len(results) < len(outputs):
            filler = rng.getrandbits(32 * columns)
            words = operand if operand is not None else [
                filler >> 32 * c & 0xFFFFFFFF for c in range(columns)]
            ctx.set(dut.ub_data, sum((v & 255) << 8 * c for c, v in enumerate(words)))
            for c, v in enumerate(words):
                ctx.set(dut.accumulator_data[c], v & 0xFFFFFFFF)
            operand = None
            go = bool(waiting) and cool == 0 and rng.random() < 0.7
            ctx.set(dut.tap, go)
            cool = max(0, cool - 1)
            if go:
                first, last, operand = waiting.pop(0)
                ctx.set(dut.tap_first, first)
                ctx.set(dut.tap_last, last)
                ctx.set(dut.tap_none, operand is None)
                ctx.set(dut.tap_ub, source_ub)
                cool = slots - 1
                if last:
                    due += [t + 8 + s for s in range(slots)]
            assert ctx.get(dut.valid) == (t in due), t
            if t in due:
                beat = due.index(t) % slots
                assert ctx.get(dut.beat) == beat
                assert ctx.get(dut.last) == (beat == slots - 1)
                row = rows[len(results)]
                row += ctx.get(dut.results).to_bytes(lanes, "little")
                if beat == slots - 1:
                    results.append(row)
            counted[0] += ctx.get(dut.saturations)
            counted[1] += ctx.get(dut.overflows)
            await ctx.tick()
            t += 1
        for row, output in zip(results, outputs, strict=True):
            # Bytes of dead channels are not written and may be anything.
            count = live if operation == "requantize" else columns
            assert [(b + 128) % 256 - 128 for b in row[:count]] == output[:count]
        assert counted == [saturations, overflows]

    module = Module()
    module.submodules.dut = dut
    run(module, bench)
