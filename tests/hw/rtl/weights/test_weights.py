"""WEIGHTS, its FIFO and the shift sequencer against 6.3 and 6.4 of the timing contract."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from amaranth.sim import Simulator

from run_beats import RunBeat, run_beats
from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.weights.engine import WeightsEngine

NANO = PRESETS["nano"]
BUSY, WAIT_PORT, WAIT_BANK, WAIT_FIFO = 1, 10, 11, 12
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
class Access:
    """An access of a tile: `live` bytes of the source from `address` on."""

    from_buffer: bool
    address: int
    live: int
    burst_last: bool
    first: bool
    tile_last: bool
    last: bool


@dataclass(frozen=True)
class Tile:
    columns: int
    bytes: tuple[tuple[int, ...], ...]  # (R, C), zero where dead
    accesses: tuple[Access, ...]


def byte_at(from_buffer: bool, address: int) -> int:
    """The sources' contents, signed."""
    return ((address + 77 * from_buffer) * 2654435761 >> 7) % 256 - 128


def tiles_of(arch: Arch, load: Instruction) -> Iterator[Tile]:
    """The tiles of a Weights instruction, by its definition, and their accesses by 3.2 and 6.3."""
    width = arch.weight_port.width_bytes
    from_buffer = load.operation.name == "read_weights_ub"
    counts = load["n_count"], load["outer_count"], load["inner_count"]
    for n in range(counts[0]):
        for o in range(counts[1]):
            for i in range(counts[2]):
                rows = load["k_last"] if i == counts[2] - 1 else arch.rows
                columns = load["n_last"] if n == counts[0] - 1 else arch.columns
                final = (n, o, i) == tuple(count - 1 for count in counts)
                origin = (load["address"] + n * load["n_stride"] + o * load["outer_stride"]
                          + i * load["inner_stride"])
                r_step, c_step = load["row_pitch"], 1
                if load["transpose"]:
                    r_step, c_step = c_step, r_step
                contents = tuple(
                    tuple(
                        byte_at(from_buffer, origin + r * r_step + c * c_step)
                        if r < rows and c < columns else 0
                        for c in range(arch.columns)
                    )
                    for r in range(arch.rows)
                )
                lines, length = (columns, rows) if load["transpose"] else (rows, columns)
                accesses: list[Access] = []
                for line in range(lines):
                    address = origin + line * load["row_pitch"]
                    beats = run_beats(
                        address, length, width_bytes=width, burst_bytes=arch.burst_bytes
                    )
                    if from_buffer:  # a line is one access
                        beats = iter([RunBeat(address, length, True, True)])
                    for beat in beats:
                        end = beat.run_last and line == lines - 1
                        accesses.append(
                            Access(
                                from_buffer=from_buffer,
                                address=beat.address,
                                live=beat.live,
                                burst_last=beat.burst_last,
                                first=not accesses,
                                tile_last=end,
                                last=end and final,
                            )
                        )
                yield Tile(columns, contents, tuple(accesses))


def fits(arch: Arch, load: Instruction, size: int) -> bool:
    """Whether all live bytes exist, in weight memory of `size` bytes."""
    limit = arch.ub_bytes if load.operation.name == "read_weights_ub" else size
    return all(
        0 <= access.address and access.address + access.live <= limit
        for tile in tiles_of(arch, load)
        for access in tile.accesses
    )


def random_load(
    rng: random.Random, arch: Arch, name: str = "read_weights", *, legal: bool = True
) -> Instruction:
    """A few tiles of random sizes and places; a `legal` load of the unified buffer stays in it."""
    from_buffer = name == "read_weights_ub"
    reach = arch.ub_bytes // 5 if from_buffer else 3000
    while True:
        load = instruction(
            name,
            transpose=rng.getrandbits(1),
            address=rng.randrange(arch.ub_bytes) if from_buffer else rng.randrange(20_000, 30_000),
            row_pitch=rng.choice([arch.columns, arch.rows, 1, rng.randrange(40 + reach // 15)]),
            n_count=rng.choice([1, 2, 3]),
            outer_count=rng.choice([1, 2]),
            inner_count=rng.choice([1, 2, 3]),
            n_stride=rng.randint(-reach, reach),
            outer_stride=rng.randint(-reach, reach),
            inner_stride=rng.randint(-reach, reach),
            k_last=rng.choice([1, arch.rows, rng.randint(1, arch.rows)]),
            n_last=rng.choice([1, arch.columns, rng.randint(1, arch.columns)]),
        )
        if not legal or fits(arch, load, 1 << 31):
            return load


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("readiness, hunger", [(1.0, 1.0), (0.6, 0.05), (1.0, 0.3)])
def test_every_cycle(machine: str, readiness: float, hunger: float) -> None:
    """Accesses, slots, shifts and the rows that reach the array, cycle by cycle.

    Instructions of both sources stand in random order, one behind the other. `readiness` is the
    chance that the port or the buffer grants, `hunger` that the matrix unit takes a full plane; at
    1 it takes it in its first cycle, so shifts follow each other without a gap.
    """
    arch = MACHINES[machine]
    rows, slots = arch.rows, arch.weight_fifo_tiles
    width = arch.weight_port.width_bytes
    rng = random.Random(f"{machine} {readiness} {hunger}")
    names = ["read_weights", "read_weights_ub"] * 3
    rng.shuffle(names)
    loads = [random_load(rng, arch, name) for name in names]
    dut = WeightsEngine(arch)
    states_seen = set()
    gapless = 0

    async def bench(ctx: Any) -> None:
        nonlocal gapless
        ctx.set(dut.weight_bytes, 1 << 20)
        to_start = deque(loads)
        to_end = deque(loads)
        tiles: deque[Tile] = deque()  # granted in part or whole and not begun to shift
        current: deque[tuple[Tile, Access]] = deque()  # of the active instruction
        flight: deque[tuple[int, Access, int]] = deque()  # due, beat, user
        line: Access | None = None  # read from the unified buffer in the last cycle
        source = False  # whether the instruction started last reads the unified buffer
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
            if starts:  # not before the other source's accesses have been delivered (5.2.2)
                other = (to_start[0].operation.name == "read_weights_ub") != source
                starts = not (other and (flight or line))
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
            opens = closes = granted = False
            ctx.set(dut.weight.grant, 0)
            ctx.set(dut.ub.grant, 0)
            read: Access | None = None
            if current:
                tile, access = current[0]
                port, idle = dut.weight, dut.ub
                if access.from_buffer:
                    port, idle = idle, port
                blocked = access.first and used == slots
                granted = not blocked and rng.random() < readiness
                ctx.set(port.grant, granted)
                assert ctx.get(port.request) == (not blocked), f"cycle {cycle}"
                assert not ctx.get(idle.request)
                if access.from_buffer:
                    assert ctx.get(port.address) == access.address
                    assert ctx.get(port.length) == access.live
                else:
                    assert ctx.get(port.address) == access.address // width * width
                    assert ctx.get(port.burst_last) == access.burst_last
                assert ctx.get(dut.engine.last) == access.last
                assert ctx.get(dut.engine.performed) == granted
                assert not ctx.get(dut.engine.address_fault)
                waits = WAIT_BANK if access.from_buffer else WAIT_PORT
                state = WAIT_FIFO if blocked else BUSY if granted else waits
                assert ctx.get(dut.engine.state) == state
                states_seen.add(state)
                if granted:
                    current.popleft()
                    opens = access.first
                    if opens:
                        tiles.append(tile)
                    if access.from_buffer:
                        read = access
                    else:
                        flight.append((cycle + LATENCY, access, ctx.get(dut.weight.user)))
            else:
                assert not ctx.get(dut.weight.request) and not ctx.get(dut.ub.request)
            for amount, of_buffer in (
                (dut.engine.amount_weight_bytes, False),
                (dut.engine.amount_ub_bytes, True),
            ):
                mine = granted and access.from_buffer == of_buffer
                assert ctx.get(amount) == (access.live if mine else 0), f"cycle {cycle}"

            # The delivery: of a beat when the port has it, of a line in the cycle after its read.
            arrives = bool(flight) and flight[0][0] == cycle
            delivered = line
            ctx.set(dut.weight.delivered, arrives)
            ctx.set(dut.weight.read_data, rng.getrandbits(8 * width))
            noise = rng.getrandbits(8 * arch.ub_width_bytes)
            if line:
                keep = noise >> 8 * line.live << 8 * line.live
                live = [byte_at(True, line.address + b) % 256 for b in range(line.live)]
                noise = keep | int.from_bytes(bytes(live), "little")
            ctx.set(dut.ub.data, noise)
            if arrives:
                assert line is None
                _, delivered, user = flight.popleft()
                base = delivered.address // width * width
                lanes = [byte_at(False, base + lane) % 256 for lane in range(width)]
                ctx.set(dut.weight.delivered_user, user)
                ctx.set(dut.weight.read_data, int.from_bytes(bytes(lanes), "little"))
            ends = delivered is not None and delivered.last
            assert ctx.get(dut.engine.end) == ends, f"cycle {cycle}"
            if delivered is not None:
                closes = delivered.tile_last
            if ends:
                to_end.popleft()
            line = read

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
                source = load.operation.name == "read_weights_ub"
                current.extend((t, a) for t in tiles_of(arch, load) for a in t.accesses)
            await ctx.tick()
            cycle += 1
        assert not to_end and not flight and used == 0

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert BUSY in states_seen
    assert (WAIT_PORT in states_seen) == (WAIT_BANK in states_seen) == (readiness < 1)
    assert slots > 1 or WAIT_FIFO in states_seen
    if hunger == 1.0 and machine == "33x6, 64 bytes":
        assert gapless, "no shift followed another without a gap"


@pytest.mark.parametrize("name", ["read_weights", "read_weights_ub"])
def test_addresses_outside_the_source_are_found(name: str) -> None:
    """Of weight memories of several sizes, and around the end of the unified buffer."""
    arch = replace(MACHINES["6x10, 2 bytes"], weight_fifo_tiles=16)
    from_buffer = name == "read_weights_ub"
    rng = random.Random(4)
    dut = WeightsEngine(arch)
    faults = faultless = 0

    async def bench(ctx: Any) -> None:
        nonlocal faults, faultless
        port = dut.ub if from_buffer else dut.weight
        for size in (20_000, 24_000, 1 << 31, 25_000, 0, 24_500, 1 << 30, 26_000):
            load = random_load(rng, arch, name, legal=False)
            limit = size
            if from_buffer:
                address = arch.ub_bytes - rng.randrange(100)
                load = instruction(name, **{**load.fields, "address": address, "row_pitch": 9})
                limit = arch.ub_bytes
            ctx.set(dut.weight_bytes, size)
            ctx.set(dut.engine.word, int.from_bytes(encode(load), "little"))
            ctx.set(dut.engine.start, 1)
            await ctx.tick()
            ctx.set(dut.engine.start, 0)
            ctx.set(dut.engine.active, 1)
            # The first tile is enough; that its slots are never freed again does not matter here.
            tile = next(tiles_of(arch, load))
            for access in tile.accesses:
                fault = access.address + access.live > limit
                assert ctx.get(dut.engine.address_fault) == fault
                if fault:  # neither presented nor performed (5.5)
                    ctx.set(port.grant, 0)
                    assert not ctx.get(port.request)
                    assert not ctx.get(dut.engine.performed)
                    assert ctx.get(dut.engine.state) == (WAIT_BANK if from_buffer else WAIT_PORT)
                    faults += 1
                    break
                assert ctx.get(port.request)
                ctx.set(port.grant, 1)
                await ctx.tick()
            else:
                faultless += 1
            ctx.set(port.grant, 0)
            ctx.set(dut.engine.active, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert faults >= 2 and faultless >= 2


def test_an_address_that_wraps_is_outside() -> None:
    """A line that ends at 2**32 is not taken for one that ends at 0."""
    arch = MACHINES["8x8, 1 byte"]
    dut = WeightsEngine(arch)
    load = instruction("read_weights_ub", address=(1 << 32) - 8, k_last=8, n_last=8)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.engine.word, int.from_bytes(encode(load), "little"))
        ctx.set(dut.engine.start, 1)
        await ctx.tick()
        ctx.set(dut.engine.start, 0)
        ctx.set(dut.engine.active, 1)
        assert ctx.get(dut.engine.address_fault) and not ctx.get(dut.ub.request)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
