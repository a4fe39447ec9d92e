"""The loop nest, alone, against nested loops whose counts change whenever a loop begins."""

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from nested_loops import Turn, nested_turns
from part_bench import PartBench
from systol_hw.rtl.walk.loop_nest import LoopNest

ADVANCES = 700
NESTS = (
    {"only": 1},
    {"only": 5},
    {"inner": 4, "outer": 4},
    {"a": 2, "b": 1, "c": 3},
    {"phase": 3, "kx": 8, "ky": 8, "x": 16, "y": 16, "n": 8},
)


class NestWalks:
    """Walks of random counts, one after another, some of them broken off by a new start."""

    def __init__(self, widths: dict[str, int], ready: float, seed: str) -> None:
        self.widths, self.ready, self.rng = widths, ready, random.Random(seed)
        self.bench = PartBench(LoopNest(widths), seed=seed)
        self.present: Turn | None = None  # not known before a start and after the end
        self.following: Turn | None = None
        self.seen: Counter[str] = Counter()

    def draw_count(self, width: int) -> int:
        most = (1 << width) - 1
        longest = most if self.rng.random() < 0.03 else min(most, 3)
        return self.rng.choice((1, 1, longest, self.rng.randint(1, longest)))

    def flags(self, name: str, values: tuple[bool, ...]) -> dict[str, int]:
        return {f"{name}.{loop}": v for loop, v in zip(self.widths, values, strict=True)}

    def counts(self, begins: int, turn: Turn | None) -> dict[str, int]:
        """The counts of `turn` for the innermost `begins` loops; noise where none is looked at."""
        return {
            f"counts.{name}": (
                turn.counts[loop] if turn and loop < begins else self.rng.getrandbits(width)
            )
            for loop, (name, width) in enumerate(self.widths.items())
        }

    async def run(self) -> None:
        rng, loops = self.rng, len(self.widths)
        walk: Iterator[Turn] = iter(())
        ended = False  # in the cycle before
        for _ in range(int(ADVANCES / self.ready)):
            start = rng.random() < (0.8 if self.present is None else 0.01 * self.ready)
            advance = not start and rng.random() < self.ready
            expected: dict[str, int] = {}
            stepping: int | None = None
            if self.present:
                if self.following:
                    stepping = self.present.steps_to(self.following)
                expected |= self.flags("last", self.present.last)
                expected |= self.flags("steps", tuple(i == stepping for i in range(loops)))
                expected["done"] = self.following is None
                assert all(self.present.last) == (self.following is None)
            if start:
                draws = [partial(self.draw_count, width) for width in self.widths.values()]
                walk = nested_turns(draws)
                after: Turn | None = next(walk)
                given = self.counts(loops, after)
                self.seen["back to back"] += ended
                self.seen["broken off"] += self.following is not None
            else:
                after = self.following
                given = self.counts(stepping or 0, after if advance else None)
            if after and (start or advance):
                expected |= self.flags("next_last", after.last)
            self.bench.drive({"start": start, "advance": advance, **given})
            self.bench.expect(expected)
            await self.bench.tick()

            ended = advance and self.present is not None and after is None
            self.seen["ended"] += ended
            if advance and stepping is not None:
                self.seen[f"step {stepping}"] += 1
            self.seen["held"] += self.present is not None and not (start or advance)
            if start or advance:
                self.present, self.following = after, next(walk, None)


@pytest.mark.parametrize("ready", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("widths", NESTS, ids=lambda widths: " ".join(widths))
def test_turns_are_those_of_nested_loops(widths: dict[str, int], ready: float) -> None:
    walks = NestWalks(widths, ready, f"{widths} {ready}")
    walks.bench.run(walks.run)
    seen = walks.seen
    assert seen["ended"] and seen["back to back"], f"{seen}"
    assert (seen["held"] > 50) == (ready < 1)
    for loop, width in enumerate(widths.values()):
        assert (seen[f"step {loop}"] > 0) == (width > 1), f"{loop}: {seen}"
    assert seen["broken off"] or set(widths.values()) == {1}


@pytest.mark.parametrize("width", [1, 2, 7, 10])
def test_a_loop_makes_all_the_turns_that_its_width_can_count(width: int) -> None:
    most = (1 << width) - 1
    bench = PartBench(LoopNest({"only": width}), seed=f"width {width}")

    async def run() -> None:
        bench.drive({"start": 1, "counts.only": most})
        bench.expect({"next_last.only": most == 1})
        await bench.tick()
        for turn in range(most):
            done = turn == most - 1
            bench.drive({"start": 0, "advance": 1, "counts.only": 1})
            bench.expect({"done": done, "last.only": done, "steps.only": not done})
            await bench.tick()

    bench.run(run)
