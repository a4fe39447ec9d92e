"""A vector lane's arithmetic against integers and exact fractions (docs/numerics.md, 4 and 5)."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
from amaranth.sim import Simulator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from systol_hw.rtl.vector.requantizer import REQUANTIZE_CYCLES, Requantizer

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
MULTIPLIER = st.integers(-(1 << 17), (1 << 17) - 1)
SHIFT = st.integers(0, 63)
BYTE = st.integers(-128, 127)
OPERAND = st.integers(-33024, 32767)
KNOT = st.integers(-(1 << 15), (1 << 15) - 1)
ENDS = (-(1 << 31), -(1 << 31) + 1, -1, 0, 1, (1 << 31) - 1)
OPERAND_ENDS = (-33023, -32896, -1, 0, 1, 32767)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What comes with one value, and the exact number that it stands for before the shift."""

    exact: int
    value: int
    shift: int
    bias: int = 0
    multiplier_a: int = 0
    multiplier_b: int = 0
    knot: int = 0
    difference: int = 0
    fraction: int = 0
    wrapped: bool = False


def wrap32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def long_case(value: int, bias: int, multiplier: int, shift: int) -> Case:
    total = value + bias
    return Case(
        exact=wrap32(total) * multiplier, value=value, bias=bias, shift=shift,
        multiplier_a=multiplier, multiplier_b=multiplier, wrapped=total != wrap32(total),
    )


def two_operands(function: str, a: int, b: int, ma: int, mb: int, shift: int) -> Case:
    exact = {"add": a * ma + b * mb, "multiply": a * b * ma, "minimum": min(a * ma, b * mb),
             "maximum": max(a * ma, b * mb)}[function]
    return Case(
        exact=exact, value=a & 0x1FFFF | (b & 0x1FFFF) << 17, shift=shift, multiplier_a=ma,
        multiplier_b=ma if function == "multiply" else mb,
    )


def table_case(knot: int, following: int, fraction: int, shift: int) -> Case:
    return Case(
        exact=256 * knot + (following - knot) * fraction, value=-1, shift=shift, knot=knot,
        difference=following - knot, fraction=fraction, multiplier_b=256,
    )


def run(dut: Requantizer, bench: Callable[..., object]) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


STAGES = {
    "value": 0, "bias": 0, "knot": 0, "difference": 0, "fraction": 0,
    "multiplier_a": 1, "multiplier_b": 1, "shift": 3,
}
"""Cycles by which a case's parts come behind its value."""


def check(
    cases: list[Case],
    *modes: str,
    zero_point: int = 0,
    low: int = -32639,
    high: int = 32639,
) -> int:
    """A value a cycle, planes in turn; returns the number of saturations."""
    dut = Requantizer()
    wide, raw = "wide" in modes, "raw" in modes
    greatest, least = (32639, -32639) if wide else (127, -128)
    low, high = (min(max(clip, least), greatest) for clip in (low, high))
    expected: list[tuple[int, bool]] = []
    for number, case in enumerate(cases):
        if raw:
            expected.append((case.exact >> case.shift & 255, False))
            continue
        q = round(Fraction(case.exact, 1 << case.shift)) + zero_point
        result = min(max(q, low), high)
        low_plane = (result + 128) % 256 - 128
        plane = (result - low_plane) // 256 if wide and number % 2 else low_plane
        expected.append((plane & 255, min(max(q, least), greatest) != q))

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for mode in modes:
            ctx.set(getattr(dut.mode, mode), 1)
        ctx.set(dut.mode.zero_point, zero_point)
        ctx.set(dut.mode.low, low)
        ctx.set(dut.mode.high, high)
        for t in range(len(cases) + REQUANTIZE_CYCLES):
            for name, stage in STAGES.items():
                if 0 <= t - stage < len(cases):
                    value = getattr(cases[t - stage], name)
                    ctx.set(getattr(dut, name), value & (1 << 34) - 1 if name == "value" else value)
            if 0 <= t - 1 < len(cases):
                assert ctx.get(dut.wrapped) == cases[t - 1].wrapped, cases[t - 1]
            done = t - REQUANTIZE_CYCLES
            if done >= 0:
                ctx.set(dut.high_plane, wide and done % 2)
                byte, saturated = expected[done]
                assert ctx.get(dut.result) == byte, (cases[done], modes, zero_point, low, high)
                if not raw:
                    assert ctx.get(dut.saturated) == saturated, (cases[done], modes, zero_point)
            await ctx.tick()

    run(dut, bench)
    return sum(saturated for _, saturated in expected)


@settings(max_examples=25)
@given(
    st.lists(st.builds(long_case, INT32, INT32, MULTIPLIER, SHIFT), min_size=1, max_size=60),
    st.booleans(), BYTE, KNOT, KNOT,
)
@example([long_case(v, 0, m, s) for v in ENDS for m in (-(1 << 17), -1, 0, 1, (1 << 17) - 1)
          for s in (0, 1, 31, 47, 48, 49, 50, 63)], False, 0, -128, 127)
@example([long_case(v, 0, m, s) for v in ENDS for m in (-(1 << 17), -1, 0, 1, (1 << 17) - 1)
          for s in (0, 1, 31, 47, 48, 49, 50, 63)], True, 0, -32768, 32767)
def test_long_products(cases: list[Case], wide: bool, zero_point: int, a: int, b: int) -> None:
    modes = ("wide",) if wide else ()
    check(cases, *modes, zero_point=zero_point, low=min(a, b), high=max(a, b))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("function", ["add", "multiply", "minimum", "maximum"])
@settings(max_examples=6)
@given(data=st.data())
def test_two_operands(function: str, wide: bool, data: st.DataObject) -> None:
    build = st.builds(two_operands, st.just(function), OPERAND, OPERAND, MULTIPLIER, MULTIPLIER,
                      st.integers(0, 50))
    cases = data.draw(st.lists(build, min_size=1, max_size=40))
    cases += [two_operands(function, a, b, ma, mb, 20) for a in OPERAND_ENDS for b in OPERAND_ENDS
              for ma, mb in ((1, 1), (1, -1), (-(1 << 17), (1 << 17) - 1))]
    modes = {"add": ("pair",), "multiply": ("multiply",)}.get(function, ("pair", function))
    check(cases, *modes, *(["wide"] if wide else []), zero_point=data.draw(BYTE))


@pytest.mark.parametrize("wide", [False, True])
@settings(max_examples=15)
@given(
    cases=st.lists(st.builds(table_case, KNOT, KNOT, st.integers(0, 255), st.integers(0, 20)),
                   min_size=1, max_size=60),
    zero_point=BYTE,
)
def test_table(wide: bool, cases: list[Case], zero_point: int) -> None:
    cases += [table_case(k, n, f, 8) for k in (-32768, 0, 32767) for n in (-32768, 0, 32767)
              for f in (0, 1, 128, 255)]
    check(cases, "table", "pair", *(["wide"] if wide else []), zero_point=zero_point)


@pytest.mark.parametrize("plane", range(4))
def test_raw_planes(plane: int) -> None:
    """Every byte of a number as it stands: no rounding, no saturation, no clip."""
    rng = random.Random(plane)
    values = [*ENDS, *(wrap32(rng.getrandbits(32)) >> rng.choice((0, 9, 20)) for _ in range(200))]
    check([long_case(v, 0, 1, 8 * plane) for v in values], "raw", low=-3, high=3)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("zero_point", [-128, -1, 0, 77, 127])
def test_ties_and_edges_of_saturation(zero_point: int, wide: bool) -> None:
    """Quotients at and beside every half near the ends of the range, at every shift."""
    rng = random.Random(zero_point)
    ends = (-32639, 32639) if wide else (-128, 127)
    cases = []
    for shift in range(0, 40):
        for _ in range(16):
            target = rng.choice((-1, 0, 1, *(end + d for end in ends for d in (-1, 0, 1))))
            doubled = (2 * (target - zero_point) + rng.choice((-1, 0, 1))) << shift
            product = doubled // 2 + rng.choice((-1, 0, 0, 1))
            multiplier = rng.choice((1, -1, 1 << min(shift, 16), -(1 << min(shift, 17))))
            value = max(-(1 << 31), min((1 << 31) - 1, product // multiplier))
            cases.append(long_case(value, 0, multiplier, shift))
    saturations = check(cases, *(["wide"] if wide else []), zero_point=zero_point)
    assert 0 < saturations < len(cases)
