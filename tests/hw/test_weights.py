"""WEIGHTS, its FIFO and the shift sequencer against 6.3 and 6.4 of the timing contract."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.weights import WeightsEngine

NANO = PRESETS["nano"]
BUSY, WAIT_PORT, WAIT_FIFO = 1, 10, 12
LATENCY = 8


def with_port(width: int, **fields: Any) -> Arch:
    port = replace(NANO.weight_port, width_bytes=width, bytes_per_cycle=Fraction(width))
    return replace(NANO, ub_bytes=4096, weight_port=port, **fields)


MACHINES = {
    "8x8, 1 byte": with_port(1),
    "4x8, 8 bytes": with_port(8, rows=4, columns=8, weight_fifo_tiles=1),
    "8x4, 4 bytes": with_port(4, rows=8, columns=4, weight_fifo_tiles=3),
    "6x10, 2 bytes": with_port(2, rows=6, columns=10, burst_bytes=4),
    "33x6, 64 bytes": with_port(64, rows=33, columns=6, weight_fifo_tiles=5),
    "16x16, 4 bytes": with_port(4, rows=16, columns=16, vector_lanes=8, weight_fifo_tiles=4),
}


@dataclass(frozen=True)
class Beat:
    """A beat of a tile: its bytes go to `row` from `column` on."""

    address: int
    live: int
    row: int
    column: int
    burst_last: bool
    first: bool
    tile_last: bool
    last: bool


@dataclass(frozen=True)
class Tile:
    rows: int
    columns: int
    bytes: tuple[tuple[int, ...], ...]  # (R, C), zero where dead
    beats: tuple[Beat, ...]


def byte_at(address: int) -> int:
    """Weight memory's contents, signed."""
    return (address * 2654435761 >> 7) % 256 - 128


def tiles_of(arch: Arch, load: Instruction) -> Iterator[Tile]:
    """The tiles of `read_weights`, by its definition, and their beats by 3.2."""
    width = arch.weight_port.width_bytes
    counts = load["n_count"], load["outer_count"], load["inner_count"]
    for n in range(counts[0]):
        for o in range(counts[1]):
            for i in range(counts[2]):
                rows = load["k_last"] if i == counts[2] - 1 else arch.rows
                columns = load["n_last"] if n == counts[0] - 1 else arch.columns
                final = (n, o, i) == tuple(count - 1 for count in counts)
                origin = (load["address"] + n * load["n_stride"] + o * load["outer_stride"]
                          + i * load["inner_stride"])
                beats: list[Beat] = []
                contents: list[tuple[int, ...]] = []
                for r in range(rows):
                    address = origin + r * load["row_pitch"]
                    row = [byte_at(address + c) for c in range(columns)]
                    contents.append((*row, *(arch.columns - columns) * (0,)))
                    column = 0
                    while column < columns:
                        live = min(width - (address + column) % width, columns - column)
                        end = column + live == columns
                        next_word = (address + column) // width * width + width
                        beats.append(
                            Beat(
                                address=address + column,
                                live=live,
                                row=r,
                                column=column,
                                burst_last=end or next_word % arch.burst_bytes == 0,
                                first=not beats,
                                tile_last=end and r == rows - 1,
                                last=end and r == rows - 1 and final,
                            )
                        )
                        column += live
                dead = (arch.rows - rows) * (arch.columns * (0,),)
                yield Tile(rows, columns, (*contents, *dead), tuple(beats))


def random_load(rng: random.Random, arch: Arch) -> Instruction:
    return instruction(
        "read_weights",
        address=rng.randrange(20_000, 30_000),
        row_pitch=rng.choice([arch.columns, rng.randrange(200)]),
        n_count=rng.choice([1, 2, 3]),
        outer_count=rng.choice([1, 2]),
        inner_count=rng.choice([1, 2, 3]),
        n_stride=rng.randint(-3000, 3000),
        outer_stride=rng.randint(-3000, 3000),
        inner_stride=rng.randint(-3000, 3000),
        k_last=rng.choice([1, arch.rows, rng.randint(1, arch.rows)]),
        n_last=rng.choice([1, arch.columns, rng.randint(1, arch.columns)]),
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("readiness, hunger", [(1.0, 1.0), (0.6, 0.05), (1.0, 0.3)])
def test_every_cycle(machine: str, readiness: float, hunger: float) -> None:
    """Beats, slots, shifts and the rows that reach the array, cycle by cycle.

    `readiness` is the chance that the port grants, `hunger` that the matrix unit takes a full
    plane; at 1 it takes it in its first cycle, so shifts follow each other without a gap.
    """
    arch = MACHINES[machine]
    rows, slots = arch.rows, arch.weight_fifo_tiles
    width = arch.weight_port.width_bytes
    rng = random.Random(f"{machine} {readiness} {hunger}")
    loads = [random_load(rng, arch) for _ in range(4)]
    dut = WeightsEngine(arch)
    states_seen = set()
    gapless = 0

    async def bench(ctx: Any) -> None:
        nonlocal gapless
        ctx.set(dut.weight_bytes, 1 << 20)
        to_start = deque(loads)
        to_end = deque(loads)
        tiles: deque[Tile] = deque()  # granted in part or whole and not begun to shift
        current: deque[tuple[Tile, Beat]] = deque()  # of the active instruction
        flight: deque[tuple[int, Beat, int]] = deque()  # due, beat, user
        used = ready = 0
        plane, shift_start = "empty", -1
        in_plane: Tile | None = None
        shown: dict[int, tuple[int, ...]] = {}  # cycle -> weight row at the array's top
        expected_shifts = sum(len(list(tiles_of(arch, load))) for load in loads)
        shifts = 0
        cycle = 0
        while shifts < expected_shifts or plane != "empty" or cycle < shift_start + rows + 2:
            assert cycle < 60_000
            starts = not current and bool(to_start) and rng.random() < 0.5
            ctx.set(dut.engine.start, starts)
            ctx.set(dut.engine.active, bool(current))
            if starts:
                word = int.from_bytes(encode(to_start[0]), "little")
                ctx.set(dut.engine.word, word)

            # State of the plane in this cycle (6.4), and of the slots.
            if plane == "shifting" and cycle == shift_start + rows:
                plane = "full"
                used -= 1
            assert ctx.get(dut.used) == used, f"cycle {cycle}"
            assert ctx.get(dut.tile.full) == (plane == "full"), f"cycle {cycle}"
            assert ctx.get(dut.tile.shifting) == (plane == "shifting"), f"cycle {cycle}"
            if plane == "full":
                assert in_plane is not None
                assert ctx.get(dut.tile.columns_live) == in_plane.columns
            takes = plane == "full" and rng.random() < hunger
            ctx.set(dut.tile.take, takes)
            begins = ready > 0 and (plane == "empty" or takes)

            assert ctx.get(dut.tile.shift) == (cycle in shown), f"cycle {cycle}"
            if cycle in shown:
                row = tuple(ctx.get(dut.tile.weights[c]) for c in range(arch.columns))
                assert row == shown[cycle], f"cycle {cycle}"

            # The access.
            opens = closes = False
            if current:
                tile, beat = current[0]
                blocked = beat.first and used == slots
                granted = not blocked and rng.random() < readiness
                ctx.set(dut.weight.grant, granted)
                assert ctx.get(dut.weight.request) == (not blocked), f"cycle {cycle}"
                assert ctx.get(dut.weight.address) == beat.address // width * width
                assert ctx.get(dut.weight.burst_last) == beat.burst_last
                assert ctx.get(dut.engine.last) == beat.last
                assert ctx.get(dut.engine.performed) == granted
                assert not ctx.get(dut.engine.address_fault)
                state = WAIT_FIFO if blocked else BUSY if granted else WAIT_PORT
                assert ctx.get(dut.engine.state) == state
                states_seen.add(state)
                assert ctx.get(dut.engine.amount_weight_bytes) == (beat.live if granted else 0)
                if granted:
                    current.popleft()
                    opens = beat.first
                    if opens:
                        tiles.append(tile)
                    flight.append((cycle + LATENCY, beat, ctx.get(dut.weight.user)))
            else:
                ctx.set(dut.weight.grant, 0)
                assert not ctx.get(dut.weight.request)

            # The delivery.
            arrives = bool(flight) and flight[0][0] == cycle
            ctx.set(dut.weight.delivered, arrives)
            noise = rng.getrandbits(8 * width)
            ctx.set(dut.weight.read_data, noise)
            if arrives:
                _, beat, user = flight.popleft()
                base = beat.address // width * width
                lanes = [byte_at(base + lane) % 256 for lane in range(width)]
                ctx.set(dut.weight.delivered_user, user)
                ctx.set(dut.weight.read_data, int.from_bytes(bytes(lanes), "little"))
                closes = beat.tile_last
                if beat.last:
                    to_end.popleft()
            assert ctx.get(dut.engine.end) == (arrives and beat.last)

            if takes:
                plane = "empty"
            if begins:
                gapless += takes and cycle == shift_start + rows
                plane, shift_start, in_plane = "shifting", cycle, tiles.popleft()
                shifts += 1
                for step in range(rows):
                    shown[cycle + 2 + step] = in_plane.bytes[rows - 1 - step]
            used += opens
            ready += closes - begins
            if starts:
                load = to_start.popleft()
                current.extend((t, b) for t in tiles_of(arch, load) for b in t.beats)
            await ctx.tick()
            cycle += 1
        assert not to_end and not flight and used == 0

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert BUSY in states_seen
    assert (WAIT_PORT in states_seen) == (readiness < 1)
    assert slots > 1 or WAIT_FIFO in states_seen
    if hunger == 1.0 and machine == "33x6, 64 bytes":
        assert gapless, "no shift followed another without a gap"


def test_addresses_outside_weight_memory_are_found() -> None:
    arch = replace(MACHINES["6x10, 2 bytes"], weight_fifo_tiles=6)
    rng = random.Random(4)
    dut = WeightsEngine(arch)
    faults = 0

    async def bench(ctx: Any) -> None:
        nonlocal faults
        for size in (20_000, 24_000, 1 << 31, 25_000, 0):
            load = random_load(rng, arch)
            ctx.set(dut.weight_bytes, size)
            ctx.set(dut.engine.word, int.from_bytes(encode(load), "little"))
            ctx.set(dut.engine.start, 1)
            await ctx.tick()
            ctx.set(dut.engine.start, 0)
            ctx.set(dut.engine.active, 1)
            # The first tile is enough; that its slots are never freed again does not matter here.
            tile = next(tiles_of(arch, load))
            for beat in tile.beats:
                fault = beat.address + beat.live > size
                assert ctx.get(dut.engine.address_fault) == fault
                if fault:  # neither presented nor performed (5.5)
                    ctx.set(dut.weight.grant, 0)
                    assert not ctx.get(dut.weight.request)
                    assert not ctx.get(dut.engine.performed)
                    assert ctx.get(dut.engine.state) == WAIT_PORT
                    faults += 1
                    break
                assert ctx.get(dut.weight.request)
                ctx.set(dut.weight.grant, 1)
                await ctx.tick()
            ctx.set(dut.weight.grant, 0)
            ctx.set(dut.engine.active, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert 2 <= faults < 5
