"""The matrix engine against docs/timing.md 6.5 and 6.6 and the instruction table, every cycle."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.matrix.engine import MatrixEngine
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

STATE = {state.name: state.code for state in UNIT_STATES[Unit.MATRIX]}
NANO = PRESETS["nano"]
MACHINES = {
    "8x8": NANO,
    "4x8": replace(NANO, name="m4x8", rows=4),
    "8x4": replace(NANO, name="m8x4", columns=4),
    "5x6": replace(NANO, name="m5x6", rows=5, columns=6, vector_lanes=3),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the loops, by the table's formulas."""

    live: int
    skipped: int
    length: int
    address: int
    line_inside: bool
    row: int
    accumulate: bool
    tile_first: bool
    last: bool


def signed32(value: int) -> int:
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def wrap(value: int) -> int:
    """numerics.md's wrap32."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def rows_of(i: Instruction, arch: Arch) -> Iterator[Row]:
    """Every row of a matmul, with multiplications."""
    loops = [range(i[f"{name}_count"]) for name in ("n", "k0", "k1", "k2", "y", "x")]
    total = int(np.prod([len(loop) for loop in loops]))
    for number, (n, k0, k1, k2, y, x) in enumerate(np.ndindex(*[len(loop) for loop in loops])):
        along = n * i["n_step"] + k1 * i["k1_step"] + k2 * i["k2_step"] + x * i["x_step"]
        p = signed32(i["p_start"] + along)
        address = (
            i["ub_address"] + along + k0 * i["k0_address_step"] + y * i["y_address_step"]
        ) & 0xFFFFFFFF
        line = i["y_start"] + k0 * i["k0_step"] + y * i["y_step"]
        live = i["k_last"] if k2 == i["k2_count"] - 1 else arch.rows
        inside = [b for b in range(live) if 0 <= signed32(p + b) < i["p_limit"]]
        if not 0 <= line < i["y_limit"]:
            inside = []
        yield Row(
            live=live,
            skipped=inside[0] if inside else 0,
            length=len(inside),
            address=(address + inside[0]) & 0xFFFFFFFF if inside else 0,
            line_inside=bool(inside),
            row=(i["acc_address"] + n * i["acc_n_step"] + y * i["x_count"] + x) & 0xFFFFFFFF,
            accumulate=bool(i["accumulate"]) or (k0, k1, k2) != (0, 0, 0),
            tile_first=(y, x) == (0, 0),
            last=number == total - 1,
        )


def outside(row: Row, arch: Arch) -> bool:
    return row.length > 0 and row.address + row.length > arch.ub_bytes


def random_matmul(rng: np.random.Generator, arch: Arch) -> Instruction:
    """A matmul of a few dozen rows whose accesses are all in range."""
    while True:

        def small(low: int, high: int) -> int:
            return int(rng.integers(low, high + 1))

        stretch = small(1, 3 * arch.rows)
        i = instruction(
            "matmul",
            accumulate=small(0, 1),
            unsigned_activations=small(0, 1),
            accumulate_shift=small(0, 2),
            pad_value=small(-128, 127),
            ub_address=small(300, 6000),
            p_start=small(-2 * arch.rows, stretch),
            p_limit=stretch,
            y_start=small(-2, 1),
            y_limit=small(2, 6),
            x_count=small(1, 4),
            y_count=small(1, 3),
            k2_count=small(1, 2),
            k1_count=small(1, 2),
            k0_count=small(1, 2),
            n_count=small(1, 2),
            x_step=small(-6, 12),
            k2_step=small(-10, 2 * arch.rows),
            k1_step=small(-9, 9),
            n_step=small(-20, 20),
            y_step=small(0, 2),
            k0_step=small(0, 2),
            y_address_step=small(-40, 100),
            k0_address_step=small(-50, 50),
            k_last=small(1, arch.rows),
            acc_address=small(0, 40),
            acc_n_step=small(0, 30),
        )
        if all(not outside(r, arch) and r.row < arch.accumulator_rows for r in rows_of(i, arch)):
            return i


@dataclass(kw_only=True)
class Bench:
    """Frame, unified buffer, weight FIFO and accumulators around the engine, as the page has them.

    `refusals` is how often a read loses its bank, `gaps` how often a start or a shift is late.
    """

    arch: Arch
    program: list[Instruction]
    seed: int
    packed: bool = False
    refusals: float = 0.3
    gaps: float = 0.3
    seen: set[str] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def run(self) -> None:
        engine = MatrixEngine(self.arch, self.packed)
        simulator = Simulator(engine)
        simulator.add_clock(1e-6)

        async def bench(ctx):  # type: ignore[no-untyped-def]
            await self._bench(ctx, engine)

        simulator.add_testbench(bench)
        simulator.run()

    async def _bench(self, ctx, dut) -> None:  # type: ignore[no-untyped-def]
        arch, rng = self.arch, np.random.default_rng(self.seed)
        rows, columns, latency = arch.rows, arch.columns, arch.matrix_latency_cycles
        # Some stretches at the limits, and some such tiles: their shifted sums pass 32 bits.
        memory = rng.integers(-128, 128, arch.ub_bytes)
        stretches = rng.integers(0, 3, arch.ub_bytes // 32).repeat(32)
        memory = np.choose(stretches, [memory, -128, 127])
        queue = list(self.program)
        work: list[Row] = []
        loaded: Instruction | None = None  # the active instruction
        tile, tile_columns = np.zeros((rows, columns), int), 0
        plane, plane_columns, full_from = np.zeros((rows, columns), int), 0, -1
        plane_state = "empty"
        shifts: dict[int, np.ndarray] = {}
        claims: dict[int, tuple[int, bool, list[int], bool]] = {}
        read: tuple[int, int] | None = None
        active, t = False, 0
        while queue or work or any(cycle + 1 >= t for cycle in claims):
            if plane_state == "shifting" and t == full_from:
                plane_state = "full"
            ctx.set(dut.tile.full, plane_state == "full")
            ctx.set(dut.tile.shifting, plane_state == "shifting")
            stale = int(rng.integers(0, columns + 1))
            ctx.set(dut.tile.columns_live, plane_columns if plane_state == "full" else stale)
            ctx.set(dut.tile.shift, t in shifts)
            weights = shifts.get(t, rng.integers(-128, 128, columns))
            for c in range(columns):
                ctx.set(dut.tile.weights[c], int(weights[c]))
            # Only the bytes that were read are specified.
            data = rng.integers(0, 256, arch.ub_width_bytes)
            if read is not None:
                data[: read[1]] = memory[read[0] : sum(read)] & 255
            ctx.set(dut.ub.data, int.from_bytes(data.astype(np.uint8).tobytes(), "little"))
            read = None

            start = not active and not work and bool(queue) and rng.random() >= self.gaps
            ctx.set(dut.engine.start, start)
            ctx.set(dut.engine.word, int.from_bytes(encode(queue[0]), "little") if start else
                    int(rng.integers(0, 1 << 62)))
            ctx.set(dut.engine.active, active)

            issue = False
            if active:
                row = work[0]
                ready = plane_state == "full" or not row.tile_first
                request = ready and row.length > 0
                assert ctx.get(dut.ub.request) == request, t
                grant = request and rng.random() >= self.refusals
                ctx.set(dut.ub.grant, grant)
                if request:
                    assert ctx.get(dut.ub.address) == row.address
                    assert ctx.get(dut.ub.length) == row.length
                issue = ready and (grant or row.length == 0)
                waits = "wait_bank" if ready else (
                    "wait_shift" if plane_state == "shifting" else "wait_tile")
                state = "busy" if issue else waits
                assert ctx.get(dut.engine.state) == STATE[state]
                assert not ctx.get(dut.engine.address_fault)
                self.seen.add(state)
            else:
                ctx.set(dut.ub.grant, 0)
                assert not ctx.get(dut.ub.request)
            assert ctx.get(dut.engine.performed) == issue
            taken = issue and row.tile_first
            assert ctx.get(dut.tile.take) == taken

            if taken:
                tile, tile_columns, plane_state = plane, plane_columns, "empty"
            useful, padding = 0, 0
            if issue:
                assert ctx.get(dut.engine.last) == row.last
                useful = row.live * tile_columns
                padding = (row.live - row.length) * tile_columns
                assert loaded is not None
                activations = np.zeros(rows, int)
                activations[: row.live] = loaded["pad_value"]
                span = slice(row.skipped, row.skipped + row.length)
                inside = memory[row.address : row.address + row.length]
                if loaded["unsigned_activations"]:
                    inside = inside % 256 - 128
                activations[span] = inside
                weight = 256 ** loaded["accumulate_shift"]
                sums = [int(v) * weight for v in activations @ tile]
                claims[t + latency] = (row.row, row.accumulate, sums, row.last)
                self.seen.add("straddle" if 0 < row.length < row.live else "whole")
                if row.length:
                    read = (row.address, row.length)
            assert ctx.get(dut.engine.amount_useful_macs) == useful
            assert ctx.get(dut.engine.amount_padding_macs) == padding

            port = dut.accumulators
            assert ctx.get(port.valid) == (t in claims), t
            if t in claims:
                expected_row, accumulate, sums, _ = claims[t]
                assert ctx.get(port.row) == expected_row
                assert ctx.get(port.accumulate) == accumulate
                assert [ctx.get(port.sums[c]) for c in range(columns)] == [wrap(v) for v in sums]
                beyond = [v != wrap(v) for v in sums]
                assert [bool(ctx.get(port.beyond[c])) for c in range(columns)] == beyond
                self.seen |= {"beyond"} if any(beyond) else set()
            done = t - 1 in claims
            overflows = int(rng.integers(0, columns + 1))
            ctx.set(port.done, done)
            ctx.set(port.overflows, overflows)
            assert ctx.get(dut.engine.amount_overflows) == (overflows if done else 0)
            ended = done and claims[t - 1][3]
            assert ctx.get(dut.engine.end) == ended
            if ended:
                self.ends.append(t)

            # What is registered at the end of the cycle.
            if plane_state == "empty" and rng.random() >= self.gaps:
                plane_state, full_from = "shifting", t + rows
                plane_columns = int(rng.integers(1, columns + 1))
                plane = rng.integers(-128, 128, (rows, columns))
                if rng.random() < 0.4:
                    plane[:] = -128
                plane[:, plane_columns:] = 0
                for k in range(rows):
                    shifts[t + 2 + k] = plane[rows - 1 - k]
            if start:
                self.starts.append(t)
                loaded = queue.pop(0)
                work = list(rows_of(loaded, arch))
                active = True
            if issue:
                work.pop(0)
                active = bool(work)
            await ctx.tick()
            t += 1


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(machine: str, seed: int) -> None:
    arch = MACHINES[machine]
    rng = np.random.default_rng([seed, arch.rows, arch.columns])
    program = [random_matmul(rng, arch) for _ in range(8)]
    program.append(
        instruction("matmul", accumulate_shift=2, k2_count=4, k_last=arch.rows, x_count=9,
                    x_step=32, ub_address=2000, p_limit=300)
    )
    bench = Bench(arch=arch, program=program, seed=seed, packed=bool(seed % 2))
    bench.run()
    assert {"busy", "wait_bank", "wait_shift", "straddle", "whole", "beyond"} <= bench.seen
    assert len(bench.ends) == len(program)


def test_without_stalls_tiles_follow_without_a_gap() -> None:
    """n tiles of M >= R rows take n*M cycles; by hand: R for the first shift, then a row a cycle.

    The first shift starts in cycle 0, so the plane is full from cycle R = 8 on; the instruction
    starts in cycle 0. Rows issue in 8 .. 8 + 3*12 - 1 = 43; the last claims its accumulator row in
    43 + 22 and ends in 66.
    """
    i = instruction("matmul", x_count=12, k2_count=3, k_last=8, p_limit=100, x_step=4, k2_step=8)
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, gaps=0)
    bench.run()
    assert bench.starts == [0] and bench.ends == [66]
    assert "wait_bank" not in bench.seen and "wait_tile" not in bench.seen


def test_tiles_shorter_than_a_shift_wait_for_it() -> None:
    """Five tiles of one row: one row every R cycles, in cycles 8, 16, .. 40; end 40 + 22 + 1."""
    i = instruction("matmul", k1_count=5, k_last=8, p_limit=8)
    bench = Bench(arch=NANO, program=[i], seed=1, refusals=0, gaps=0)
    bench.run()
    assert bench.ends == [63] and "wait_shift" in bench.seen


def test_folded_kernel_row_straddles_both_edges() -> None:
    """p from -2 on, two bytes a position, six bytes wide: the edge positions are padded in part."""
    i = instruction("matmul", p_start=-2, p_limit=10, x_step=2, x_count=6, k_last=6,
                    ub_address=98, pad_value=-7)
    rows = list(rows_of(i, NANO))
    assert [(r.skipped, r.length, r.address) for r in rows] == [
        (2, 4, 100), (0, 6, 100), (0, 6, 102), (0, 6, 104), (0, 4, 106), (0, 2, 108)]
    Bench(arch=NANO, program=[i], seed=2).run()


FAULTS = {
    "beyond": (instruction("matmul", ub_address=NANO.ub_bytes - 8, x_count=3, x_step=4,
                           p_limit=1000, k_last=8), 1),
    "below": (instruction("matmul", ub_address=4, x_count=4, x_step=-3, p_start=50,
                          p_limit=1000, k_last=8), 2),
    "wrapped": (instruction("matmul", ub_address=-16, p_limit=100, k_last=8), 0),
    "accumulator": (instruction("matmul", acc_address=126, x_count=4, p_limit=8, k_last=8), 2),
    "accumulator of n": (instruction("matmul", acc_n_step=65535, n_count=2, acc_address=3,
                                     p_limit=8, k_last=8), 1),
    "padding only, in range": (instruction("matmul", ub_address=-16, p_start=-20,
                                           p_limit=9, k_last=8), -1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_address_check_is_of_the_current_row(name: str) -> None:
    i, faulty = FAULTS[name]
    rows = list(rows_of(i, NANO))
    bad = [outside(r, NANO) or r.row >= NANO.accumulator_rows for r in rows]
    assert bad.index(True) == faulty if faulty >= 0 else not any(bad)
    dut = MatrixEngine(NANO, False)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.tile.full, 1)
        ctx.set(dut.engine.start, 1)
        ctx.set(dut.engine.word, int.from_bytes(encode(i), "little"))
        await ctx.tick()
        ctx.set(dut.engine.start, 0)
        ctx.set(dut.engine.active, 1)
        for row, fault in zip(rows, bad, strict=True):
            ctx.set(dut.ub.grant, 0)
            assert ctx.get(dut.engine.address_fault) == fault
            # A row that faults is not presented, so that it claims no bank.
            wants = row.length > 0 and not fault
            assert ctx.get(dut.ub.request) == wants
            assert ctx.get(dut.engine.performed) == (not wants and not fault)
            if fault:
                assert ctx.get(dut.engine.state) == STATE["wait_bank"]
                return
            if wants:  # refused, it is checked again
                await ctx.tick()
                assert not ctx.get(dut.engine.address_fault)
                ctx.set(dut.ub.grant, 1)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
