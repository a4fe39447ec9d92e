"""The address that follows loops by additions, alone, against sums of steps and of products."""

import random
from collections.abc import Iterator
from functools import partial

import pytest

from nested_loops import Turn, nested_turns
from part_bench import PartBench
from systol_hw.rtl.walk.loop_address import STEP_BITS, LoopAddress

SPACE = 1 << 32
STEP_LEAST, STEP_MOST = -(1 << STEP_BITS - 1), (1 << STEP_BITS - 1) - 1
NESTS = (("only",), ("inner", "outer"), ("phase", "x", "y", "n"),
         ("phase", "kx", "ky", "x", "y", "n"))  # fmt: skip
READINESS = (1.0, 0.7, 0.3)


def draw_step(rng: random.Random) -> int:
    return rng.choice((0, 1, STEP_LEAST, STEP_MOST, rng.randint(STEP_LEAST, STEP_MOST)))


def draw_first(rng: random.Random) -> int:
    return rng.choice((0, SPACE - 1, rng.randrange(SPACE)))


class AddressBench:
    """Inputs that the part must not look at are noise in each cycle."""

    def __init__(self, loops: tuple[str, ...], seed: str) -> None:
        self.loops, self.rng = loops, random.Random(seed)
        self.bench = PartBench(LoopAddress(loops), seed=seed)

    def noise(self) -> dict[str, int]:
        rng = self.rng
        return {
            "start": 0, "move": 0, "first": draw_first(rng), "first_offset": draw_step(rng),
            **{f"turns.{name}": rng.getrandbits(1) for name in self.loops},
            **{f"steps.{name}": draw_step(rng) for name in self.loops},
        }  # fmt: skip

    async def cycle(self, address: int | None, **inputs: int) -> None:
        """One cycle with `address` (not looked at if None) and these inputs."""
        self.bench.drive(self.noise() | inputs)
        if address is not None:
            self.bench.expect({"address": address % SPACE})
        await self.bench.tick()

    async def start(self, address: int | None, first: int, offset: int) -> None:
        await self.cycle(address, start=1, first=first, first_offset=offset)

    async def stall(self, address: int | None, ready: float) -> None:
        """The cycles until the part may go on."""
        while self.rng.random() >= ready:
            await self.cycle(address)

    async def move(self, address: int, loop: int, step: int) -> None:
        names = self.loops
        turns = {f"turns.{name}": int(i == loop) for i, name in enumerate(names)}
        await self.cycle(address, move=1, **turns, **{f"steps.{names[loop]}": step})


@pytest.mark.parametrize("ready", READINESS)
@pytest.mark.parametrize("loops", NESTS, ids=" ".join)
def test_an_address_is_the_first_and_each_loops_index_times_its_step(
    loops: tuple[str, ...], ready: float
) -> None:
    """Whole nests, one after another, some with a pause or a move of no loop at their end."""
    seed = f"nests {loops} {ready}"
    bench = AddressBench(loops, seed)
    rng = bench.rng

    def draw_turns() -> Iterator[Turn]:
        counts = [rng.choice((1, 2, 3)) for _ in loops]
        return nested_turns([partial(int, count) for count in counts])

    async def run() -> None:
        address: int | None = None
        for _ in range(12):
            first, offset = draw_first(rng), draw_step(rng)
            steps = [draw_step(rng) for _ in loops]
            await bench.stall(address, ready)
            await bench.start(address, first, offset)
            turns = list(draw_turns())
            for number, turn in enumerate(turns):
                products = zip(turn.indices, steps, strict=True)
                address = first + offset + sum(index * step for index, step in products)
                await bench.stall(address, ready)
                if number < len(turns) - 1:
                    loop = turn.steps_to(turns[number + 1])
                    await bench.move(address, loop, steps[loop])
            if rng.random() < 0.5:  # as the walkers do on the last turn of all
                await bench.cycle(address, move=1, **{f"turns.{name}": 0 for name in loops})
                address = None

    bench.bench.run(run)


@pytest.mark.parametrize("ready", READINESS)
@pytest.mark.parametrize("loops", NESTS, ids=" ".join)
def test_a_step_forgets_what_the_loops_inside_it_added_up(
    loops: tuple[str, ...], ready: float
) -> None:
    """Loops step in any order, by another amount each time, and begin again in the middle."""
    seed = f"steps {loops} {ready}"
    bench = AddressBench(loops, seed)
    rng = bench.rng

    async def run() -> None:
        address: int | None = None
        for _ in range(40):
            first, offset = draw_first(rng), draw_step(rng)
            await bench.start(address, first, offset)
            added = [0 for _ in loops]
            address = first + offset
            for _ in range(rng.randint(0, 20)):
                await bench.stall(address, ready)
                loop, step = rng.randrange(len(loops)), draw_step(rng)
                await bench.move(address, loop, step)
                added = [0] * loop + [added[loop] + step] + added[loop + 1 :]
                address = first + offset + sum(added)

    bench.bench.run(run)
