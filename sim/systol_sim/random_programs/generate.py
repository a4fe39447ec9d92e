"""Random valid programs: all units, odd shapes and addresses, real contention.

Accesses come first: instructions are drawn one after another so that each reads only what earlier
ones wrote (`proposals`). Their order is then made certain by as few tokens as serve, or by some
more (`systol_sim.validity.synchronize`). Only a program that its weight FIFO would block is drawn
again.
"""

import random
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import ALL_WINDOWS, INSTRUCTION_BYTES, PARAMETER_BYTES, WINDOWS, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.faults import Unit
from systol_sim.random_programs.elementwise_proposals import TABLE_BYTES
from systol_sim.random_programs.memories import Memories
from systol_sim.random_programs.proposals import Proposer
from systol_sim.validity.progress import find_stuck, tile_count
from systol_sim.validity.synchronize import synchronize

_ATTEMPTS = 20
LONG_CYCLES = 40_000
"""More cycles without progress than any generated program has."""
_OVERFLOW_TILES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A program and the initial contents of its host windows, by window name."""

    program: Program
    contents: dict[str, np.ndarray]


def generate(arch: Arch, seed: int, *, instructions: int | None = None) -> Case:
    """A random valid program for `arch`; equal arguments give an equal program.

    Parameters
    ----------
    instructions
        About how many instructions before halt; 26 to 46 if not given.
    """
    for attempt in range(_ATTEMPTS):
        rng = random.Random(f"{seed}/{attempt}")
        writer = _Writer(arch, rng, instructions or rng.randint(26, 46))
        body = writer.write()
        redundancy = rng.choice((0.0, 0.0, 0.2, 0.5))
        listing = [
            *synchronize(arch, body, rng=rng, redundancy=redundancy),
            instruction("halt"),
        ]
        if find_stuck(listing, arch) is None:
            return Case(program=writer.program(listing), contents=writer.contents)
    raise AssertionError(f"seed {seed} gave no program that gets through on {arch.name}")


def _random_bytes(rng: random.Random, size: int) -> np.ndarray:
    """Random bytes with runs of extreme ones: uint8 (size,)."""
    data = np.frombuffer(rng.randbytes(size), np.uint8).copy()
    for _ in range(rng.randint(0, 3)):
        low = rng.randrange(size)
        data[low : low + rng.randint(1, 64)] = rng.choice((0x80, 0x7F, 0x00, 0xFF))
    return data


def random_parameters(rng: random.Random, channels: int) -> np.ndarray:
    """Requantization parameters with every kind of extreme: uint8 (8 * channels,)."""
    data = bytearray()
    for _ in range(channels):
        # Bits that the table leaves open are random: no executor may look at them.
        word = (_multiplier(rng) & 0x3FFFF) | rng.getrandbits(6) << 18
        data += (_bias(rng) & 0xFFFFFFFF).to_bytes(4, "little") + word.to_bytes(3, "little")
        kind = rng.random()
        # The last of them makes ties of a multiplier that is a power of two.
        shift = rng.randint(18, 30) if kind < 0.6 else rng.choice((0, 16, 17, 48, 49, 63, 17, 18))
        data.append(shift | rng.getrandbits(2) << 6)
    return np.frombuffer(bytes(data), np.uint8)


def _bias(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.6:
        return int((kind - 0.3) * 13000) if kind > 0.1 else 0
    if kind < 0.8:
        return rng.getrandbits(32)
    near = rng.randint(0, 99)
    return (1 << 31) - 1 - near if kind < 0.9 else -(1 << 31) + near


def _multiplier(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.35:
        return (1 << 16) + rng.getrandbits(16)
    if kind < 0.5:
        return rng.getrandbits(18) - (1 << 17)
    return rng.choice((1 << 16, 1 << 16, (1 << 17) - 1, -(1 << 17), 0))


class _Writer:
    """One program in the making."""

    def __init__(self, arch: Arch, rng: random.Random, length: int) -> None:
        self.arch, self.rng, self.length = arch, rng, length
        large = rng.randint(1, 3)
        # Windows of the alternate set have numbers from 8 on, so that all before them exist too.
        count = large if rng.random() < 0.5 else rng.randint(WINDOWS + 1, ALL_WINDOWS)
        places = set(rng.sample(range(count), large))
        self.windows = tuple(
            Window(
                name=f"w{n}",
                size_bytes=rng.randint(300, 2500) if n in places else rng.randint(1, 300),
            )
            for n in range(count)
        )
        self.contents = {
            w.name: _random_bytes(rng, rng.randint((w.size_bytes + 1) // 2, w.size_bytes))
            for w in self.windows
        }
        # Some tiles side by side where the array is small; overlapping ones where it is not.
        least = max(600, min(4 * arch.macs_per_cycle, 1 << 14))
        self.image = _random_bytes(rng, rng.randint(least, least + 1400))
        self.spare_bytes = rng.randint(64, 800)
        self.large = sorted(places)
        window = rng.choice(self.large)
        content = self.contents[self.windows[window].name]
        channels = min(
            3 * arch.columns, arch.ub_bytes // 32, content.size // PARAMETER_BYTES
        )
        parameters = random_parameters(rng, channels)
        self.parameters = (window, rng.randint(0, content.size - parameters.size), parameters.size)
        content[self.parameters[1] : self.parameters[1] + parameters.size] = parameters
        data_end = self.image.size + self.spare_bytes
        self.memories = Memories(
            arch,
            weight_data_bytes=data_end,
            # Reading the code is allowed, but moves with every change of the program.
            weight_bytes=data_end // INSTRUCTION_BYTES * INSTRUCTION_BYTES,
            window_bytes=tuple(w.size_bytes for w in self.windows),
        )
        self.proposer = Proposer(arch, rng, self.memories)
        self.body: list[Instruction] = []
        self.matmuls: list[tuple[int, int, int]] = []
        """Coming matrix instructions: period, live rows of its last tile, periods."""
        self.loads: list[tuple[int, int, int]] = []
        """Coming Weights instructions, likewise."""
        self.ahead = 0

    def program(self, listing: list[Instruction]) -> Program:
        return make_program(
            self.arch,
            listing,
            weight_image=self.image,
            spare_weight_bytes=self.spare_bytes,
            windows=self.windows,
        )

    def write(self) -> list[Instruction]:
        self._begin()
        steps = (
            (self._load, 4), (self._store, 4), (self._weights, 3), (self._matrix, 5),
            (self._vector, 6),
        )
        while len(self.body) < self.length - len(self.matmuls) - 2:
            (step,) = self.rng.choices([s for s, _ in steps], [w for _, w in steps])
            for _ in range(self.rng.choice((1, 1, 1, 2, 3, 5))):
                step()
            self._control()
        while self.loads or self.matmuls:
            before = len(self.body)
            self._weights()
            self._matrix()
            assert len(self.body) > before, "tiles that cannot be consumed"
        for _ in range(2):
            self._store()
        return self.body

    def _emit(self, item: Instruction | None) -> bool:
        if item is None:
            return False
        self.memories.note(item)
        self.body.append(item)
        return True

    def _begin(self) -> None:
        """Give the unified buffer its first values, among them good parameters."""
        rng, arch = self.rng, self.arch
        if rng.random() < 0.5:
            self._emit(instruction("tag", tag=rng.randrange(16)))
        window, address, size = self.parameters
        where = rng.randint(0, arch.ub_bytes - size)
        if where % 4 == 0:
            # Against the buffer's end: a last read that is longer than its channels would fault.
            where = arch.ub_bytes - size
        self._emit(
            instruction(
                "read_host" if window < WINDOWS else "read_host_alternate",
                window=window % WINDOWS, memory_address=address, ub_address=where, run_bytes=size,
            )
        )
        self.proposer.parameter_blocks.append((where, size // PARAMETER_BYTES))
        for _ in range(rng.randint(1, 3)):
            # The first matrix and vector work needs contiguous bytes to read.
            number = rng.choice(self.large)
            most = min(self.windows[number].size_bytes, arch.ub_bytes // 2, 400)
            self._fetch_bytes(number, rng.randint(most // 2, most))
        if rng.random() < 0.5:
            fitting = [n for n in self.large if self.windows[n].size_bytes >= TABLE_BYTES[1]]
            if fitting and arch.ub_bytes >= 4 * TABLE_BYTES[1]:
                where = self._fetch_bytes(rng.choice(fitting), TABLE_BYTES[1])
                self.proposer.tables.append(where)
        self._weights()

    def _fetch_bytes(self, number: int, run: int) -> int:
        """Load `run` bytes of window `number` somewhere; returns where."""
        rng = self.rng
        where = rng.randint(0, self.arch.ub_bytes - run)
        self._emit(
            instruction(
                "read_host" if number < WINDOWS else "read_host_alternate",
                window=number % WINDOWS, run_bytes=run, ub_address=where,
                memory_address=rng.randint(0, self.windows[number].size_bytes - run),
            )
        )
        return where

    def _control(self) -> None:
        rng = self.rng
        kind = rng.random()
        if kind < 0.16:
            self._emit(instruction("tag", tag=rng.randrange(16)))
        elif kind < 0.20:
            self._emit(instruction("nop"))
        elif kind < 0.24:
            self._emit(instruction("interrupt", value=rng.randrange(1 << 16)))
        elif kind < 0.265:
            # A limit that no program here reaches, or one that the host's is below.
            limit = rng.choice((LONG_CYCLES, rng.randrange(LONG_CYCLES, 1 << 32), (1 << 32) - 1))
            register = rng.randrange(2)
            value = rng.getrandbits(32) if register else limit
            self._emit(instruction("set_config", register=register, value=value))
        elif kind < 0.285 and self.ahead <= self.arch.weight_fifo_tiles:
            if rng.random() < 0.6:
                self._emit(instruction("barrier"))
            else:
                self._emit(instruction("sync_host", value=rng.randrange(1 << 16)))

    def _load(self) -> None:
        self._emit(self.proposer.load())

    def _store(self) -> None:
        self._emit(self.proposer.store())

    def _vector(self) -> None:
        self._emit(self.proposer.vector())

    def _plan_tiles(self) -> None:
        """Draw a sequence of tiles; cut it differently for Weights and for Matrix."""
        rng, arch = self.rng, self.arch
        # Now and then more tiles than FIFO and plane hold: a stream that becomes steady.
        period = rng.choice((1, 1, 2, 2, 3, 4)) if rng.random() < 0.9 else rng.randint(6, 16)
        last = rng.choice((arch.rows, rng.randint(1, arch.rows)))
        total = rng.randint(1, max(1, 8 // period))
        for plan in (self.loads, self.matmuls):
            left = total
            while left:
                part = left if rng.random() < 0.5 else rng.randint(1, left)
                plan.append((period, last, part))
                left -= part

    def _weights(self) -> None:
        if not self.loads:
            if self.matmuls or len(self.body) > self.length - 6:
                return
            self._plan_tiles()
        # Tiles beyond what FIFO and shadow plane hold block the loader until the matmul comes: then
        # nothing else may stand between the two.
        room = self.arch.weight_fifo_tiles + 1
        period, _, count = self.loads[0]
        if self.ahead + period * count > room and self.ahead >= self._needed():
            return
        self._emit_weights()
        while self.ahead > room:
            while self.ahead < self._needed():
                self._emit_weights()
            self._matrix()

    def _emit_weights(self) -> None:
        item = self.proposer.weights(*self.loads.pop(0))
        self._emit(item)
        self.ahead += tile_count(item)

    def _needed(self) -> int:
        """Tiles of the next matrix instruction."""
        return self.matmuls[0][0] * self.matmuls[0][2] if self.matmuls else 0

    def _matrix(self) -> None:
        if not self.matmuls or self.ahead < self._needed():
            return
        item = self.proposer.matmul(*self.matmuls[0])
        self._emit(item)
        self.matmuls.pop(0)
        self.ahead -= tile_count(item)


def overflow_program(arch: Arch) -> Case:
    """A program whose accumulators wrap: one tile of extremes, taken again and again.

    2**31 / (rows * 2**14) tiles and a few more go into one accumulator row: the least that wraps.
    """
    rows, columns = arch.rows, arch.columns
    left = (1 << 31) // (rows << 14) + 3
    tile = {"k_last": rows, "n_last": columns}
    listing = [
        instruction("fill", zero_point=-128, n_last=columns, x_count=-(-rows // columns),
                    out_x_step=columns, signal=1 << (Unit.MATRIX - 1))
    ]
    # Short instructions, so that none runs into a watchdog.
    while left:
        count = min(left, _OVERFLOW_TILES)
        left -= count
        first = len(listing) == 1
        wait = 1 << (Unit.VECTOR - 1) if first else 0
        listing += [
            instruction("read_weights", row_pitch=columns, inner_count=count, **tile),
            instruction("matmul", p_limit=rows, k2_count=count, k_last=rows, wait=wait,
                        accumulate=int(not first)),
        ]
    listing.append(instruction("halt"))
    image = np.full(rows * columns, 0x80, np.uint8)
    return Case(program=make_program(arch, listing, weight_image=image), contents={})
