"""The systolic array against numpy, cycle by cycle, and the packed multiplier exhaustively."""

import gc
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from amaranth.hdl import Module, Signal, Value, signed
from amaranth.sim import Simulator

from systol_hw.errors import ConfigurationError
from systol_hw.rtl.matrix.array import SystolicArray, array_latency
from systol_hw.rtl.matrix.multiplier import PackedPair, PlainPair, recipe, truncated_product
from systol_hw.rtl.parts.convert_once import ModuleLibrary
from systol_hw.rtl.parts.delay_line import DelayLine

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What the ports carry in one cycle."""

    activations: Ints
    weights: Ints
    valid: bool = False
    swap: bool = False
    shift: bool = False


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """Port values by cycle, and the rows expected: cycle presented -> column sums."""

    cycles: list[Cycle]
    expected: dict[int, Ints]
    swap_cycles: list[int]


def random_bytes(rng: np.random.Generator, *shape: int) -> Ints:
    """Signed bytes, a third of them at the ends of the range, where products overflow."""
    values = rng.integers(-128, 128, shape)
    ends = rng.choice(np.array([-128, -127, -1, 0, 127]), shape)
    return np.where(rng.random(shape) < 1 / 3, ends, values)


def make_stimulus(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    *,
    lengths: list[int],
    bubble: float,
    late: float,
) -> Stimulus:
    """Tiles of `lengths` rows each.

    `bubble` is the probability of a gap before each row, `late` that of delaying a tile's shift or
    swap beyond its earliest legal cycle. Idle ports carry random bytes.
    """
    rows_at: dict[int, tuple[Ints, bool]] = {}
    weights_at: dict[int, Ints] = {}
    expected: dict[int, Ints] = {}
    swap_cycles: list[int] = []
    earliest_shift, earliest_row = int(rng.integers(0, 3)), 0
    for length in lengths:
        tile = random_bytes(rng, rows, columns)
        start = earliest_shift + (int(rng.integers(1, rows + 3)) if rng.random() < late else 0)
        for k in range(rows):
            weights_at[start + k] = tile[rows - 1 - k]
        cycle = max(earliest_row, start + rows)
        cycle += int(rng.integers(1, 5)) if rng.random() < late else 0
        swap_cycles.append(cycle)
        earliest_shift = max(cycle, start + rows)
        for k in range(length):
            while k and rng.random() < bubble:
                cycle += 1
            row = random_bytes(rng, rows)
            rows_at[cycle] = (row, k == 0)
            expected[cycle] = row @ tile
            cycle += 1
        earliest_row = cycle
    cycles = []
    for t in range(earliest_row + array_latency(rows, columns) + 3):
        row, swap = rows_at.get(t, (random_bytes(rng, rows), bool(rng.random() < 0.3)))
        cycles.append(
            Cycle(
                activations=row,
                valid=t in rows_at,
                # Without valid, swap must be ignored.
                swap=swap,
                weights=weights_at.get(t, random_bytes(rng, columns)),
                shift=t in weights_at,
            )
        )
    return Stimulus(cycles=cycles, expected=expected, swap_cycles=swap_cycles)


def run(dut: SystolicArray, cycles: list[Cycle]) -> dict[int, Ints]:
    """Drive `cycles`; returns the column sums by the cycle in which they were valid."""
    seen: dict[int, Ints] = {}

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for t, cycle in enumerate(cycles):
            ctx.set(dut.activations, cycle.activations.tolist())
            ctx.set(dut.weights, cycle.weights.tolist())
            ctx.set(dut.valid, cycle.valid)
            ctx.set(dut.swap, cycle.swap)
            ctx.set(dut.shift, cycle.shift)
            if ctx.get(dut.sums_valid):
                seen[t] = np.array([ctx.get(dut.sums[c]) for c in range(dut.columns)])
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return seen


def check(dut: SystolicArray, stimulus: Stimulus) -> None:
    seen = run(dut, stimulus.cycles)
    latency = array_latency(dut.rows, dut.columns)
    assert sorted(seen) == sorted(t + latency for t in stimulus.expected)
    for t, sums in stimulus.expected.items():
        np.testing.assert_array_equal(seen[t + latency], sums, err_msg=f"row of cycle {t}")


def seeds(sizes: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(rows, columns, seed) for rows, columns, count in sizes for seed in range(count)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "seed"), seeds([(4, 4, 6), (4, 8, 4), (8, 4, 4), (6, 10, 4), (16, 16, 1)])
)
def test_random_tiles(rows: int, columns: int, seed: int, packed: bool) -> None:
    rng = np.random.default_rng((rows, columns, seed))
    stimulus = make_stimulus(
        rng,
        rows,
        columns,
        lengths=rng.integers(1, 3 * rows + 1, 5 if rows == 16 else 12).tolist(),
        bubble=float(rng.choice([0.0, 0.1, 0.5])),
        late=float(rng.choice([0.0, 0.3, 0.9])),
    )
    check(SystolicArray(rows, columns, packed), stimulus)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (4, 8), (8, 4), (6, 10), (16, 16)])
def test_tiles_follow_without_gap(rows: int, columns: int, packed: bool) -> None:
    """At the earliest legal shifts and swaps, a tile of M rows takes exactly max(M, rows)."""
    rng = np.random.default_rng(7)
    lengths = [rows, rows, 1, rows, rows + 1, rows - 1, 2 * rows, rows]
    stimulus = make_stimulus(rng, rows, columns, lengths=lengths, bubble=0, late=0)
    periods = np.diff(stimulus.swap_cycles).tolist()
    assert periods == [max(length, rows) for length in lengths[:-1]]
    check(SystolicArray(rows, columns, packed), stimulus)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("rows", "columns", "limit"), [(8, 8, 4), (6, 10, 2), (12, 4, 4)])
def test_blocks_abut(rows: int, columns: int, limit: int, packed: bool) -> None:
    """An array of several blocks behaves like one of a single block."""
    rng = np.random.default_rng(limit)
    lengths = rng.integers(1, 2 * rows, 6).tolist()
    stimulus = make_stimulus(rng, rows, columns, lengths=lengths, bubble=0.2, late=0.3)
    dut = SystolicArray(rows, columns, packed, block_limit=limit)
    assert dut.block.rows < rows
    check(dut, stimulus)


@pytest.mark.parametrize("packed", [True, False])
def test_largest_sums_do_not_overflow(packed: bool) -> None:
    rows, columns = 8, 4
    low = np.full((rows, columns), -128, dtype=np.int64)
    cycles = [Cycle(activations=low[:, 0], weights=low[0], shift=True) for _ in range(rows)]
    vectors = [np.full(rows, -128), np.full(rows, 127)]
    for k, vector in enumerate(vectors):
        cycles.append(Cycle(activations=vector, weights=low[0], valid=True, swap=k == 0))
    idle = Cycle(activations=low[:, 0], weights=low[0])
    seen = run(SystolicArray(rows, columns, packed), cycles + [idle] * 40)
    assert [sums.tolist() for sums in seen.values()] == [
        [rows * 128 * 128] * columns,
        [-rows * 127 * 128] * columns,
    ]


def test_block_is_one_module_of_large_array() -> None:
    """In a module library, the array's own text holds no processing element, only blocks."""
    library = ModuleLibrary()
    top = library.convert(SystolicArray(32, 64, True), "array")
    (name,) = library.texts
    assert top.count(f"cell \\{name} ") == 2 * 4
    assert "shadow_" not in top
    assert library.texts[name].count(f"module \\{name}\n") == 1
    assert "shadow_15_7" in library.texts[name]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 5), (257, 4), (4, 258), (4, 2)])
def test_size_out_of_range(rows: int, columns: int) -> None:
    with pytest.raises(ConfigurationError, match=r"array (rows|columns) must be .* to 256, not"):
        SystolicArray(rows, columns, True)
    gc.collect()  # Amaranth warns of a component that is never used as it is collected.


@pytest.mark.parametrize("pair", [PackedPair, PlainPair])
def test_pair_exhaustively(pair: type[PackedPair] | type[PlainPair]) -> None:
    """Every (a, w0, w1): the products, and that each intermediate fits its declared shape."""
    w0, w1 = np.meshgrid(np.arange(-128, 128, dtype=np.int32), np.arange(-128, 128, dtype=np.int32))
    for a in range(-128, 128):
        (products,) = pair.multiply([np.int32(a)], [w0], [w1])
        terms = pair.split(*products)
        for value, shape in zip([*products, *terms], [*pair.products, *pair.terms], strict=True):
            half = 1 << (shape.width - 1)
            low, high = (-half, half) if shape.signed else (0, 2 * half)
            assert value.min() >= low and value.max() < high
        even, odd = pair.columns(terms, a)
        assert (even == a * w0).all() and (odd == a * w1).all(), f"activation {a}"


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7])
def test_truncated_product_exhaustively(width: int) -> None:
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    planes = truncated_product(
        [(a >> i) & 1 for i in range(width)], [(b >> i) & 1 for i in range(width)]
    )
    low = sum(plane << i for i, plane in enumerate(planes))
    np.testing.assert_array_equal(low, (a * b) % (1 << width))


@pytest.mark.parametrize("packed", [True, False])
def test_pairs_as_gates(packed: bool) -> None:
    """The recipe's gates, for a row of three pairs, agree with products."""
    pair = recipe(packed=packed)
    operands = [[Signal(signed(8)) for _ in range(3)] for _ in range(3)]
    results = [(Signal(signed(16)), Signal(signed(16))) for _ in range(3)]
    m = Module()

    def keep(value: Value) -> Value:
        gate = Signal(len(value))
        m.d.comb += gate.eq(value)
        return gate

    for k, values in enumerate(pair.multiply(operands[0], operands[1], operands[2], keep)):
        products = [Signal(shape) for shape in pair.products]
        terms = [Signal(shape) for shape in pair.terms]
        m.d.comb += [s.eq(v) for s, v in zip(products, values, strict=True)]
        m.d.comb += [s.eq(v) for s, v in zip(terms, pair.split(*products), strict=True)]
        columns = pair.columns(tuple(terms), operands[0][k])
        m.d.comb += [s.eq(v) for s, v in zip(results[k], columns, strict=True)]
    rng = np.random.default_rng(3)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for numbers in random_bytes(rng, 1000, 3, 3).tolist():
            for signals, row in zip(operands, numbers, strict=True):
                for signal, number in zip(signals, row, strict=True):
                    ctx.set(signal, number)
            await ctx.delay(1e-6)
            for k, (even, odd) in enumerate(results):
                a, w0, w1 = (row[k] for row in numbers)
                assert (ctx.get(even), ctx.get(odd)) == (a * w0, a * w1)

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("cycles", [0, 1, 2, 3, 4, 5, 7, 8, 15, 16])
def test_delay_line(cycles: int) -> None:
    dut = DelayLine(8, cycles, 4)
    tick = Signal(4)
    m = Module()
    m.submodules.dut = dut
    m.d.sync += tick.eq(tick + 1)
    m.d.comb += dut.tick.eq(tick)
    sent = np.random.default_rng(cycles).integers(0, 256, 80).tolist()
    seen = []

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for value in sent:
            ctx.set(dut.i, value)
            seen.append(ctx.get(dut.o))
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert seen[cycles:] == sent[: len(sent) - cycles]
