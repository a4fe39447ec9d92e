"""The beat walker, alone, against section 3.2 of the timing contract."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from part_bench import PartBench
from run_beats import RunBeat, run_beats
from systol_hw.rtl.walk.beat_walker import BeatWalker

CYCLES = 1800
SPACE = 1 << 32
MOST_LIMIT = 1 << 31
LENGTH_BITS = 24


@dataclass(frozen=True)
class Run:
    """A run, which of the two widths its beats have, and the memory that it is in."""

    address: int
    length: int
    limit: int
    second: int


def draw_run(rng: random.Random) -> Run:
    """Places near each edge that matters: the word's, the block's, the memory's, the space's."""
    address = rng.choice((
        rng.randrange(256), rng.randrange(SPACE), MOST_LIMIT - rng.randrange(1, 200),
        SPACE - rng.randint(1, 8),
    ))  # fmt: skip
    length = rng.choice((
        1, rng.randint(1, 12), rng.randint(1, 300), rng.randrange(1, 1 << LENGTH_BITS),
    ))  # fmt: skip
    near = address + rng.choice((0, length, rng.randint(0, length))) + rng.randint(-2, 2)
    limit = rng.choice((MOST_LIMIT, near, rng.randint(0, MOST_LIMIT)))
    return Run(address, length, min(max(limit, 0), MOST_LIMIT), rng.getrandbits(1))


class Walks:
    """Runs back to back or with gaps between them, some of them broken off by another load."""

    def __init__(
        self, widths: tuple[int, int], burst_bytes: int, ready: float, seed: str
    ) -> None:
        self.widths, self.burst_bytes = widths, burst_bytes
        self.ready, self.rng = ready, random.Random(seed)
        walker = BeatWalker(
            widths_bytes=widths, burst_bytes=burst_bytes, length_bits=LENGTH_BITS
        )
        self.bench = PartBench(walker, seed=seed)
        self.run = Run(0, 0, 0, 0)
        self.beats: Iterator[RunBeat] = iter(())
        self.beat: RunBeat | None = None  # of the cycle; not known between runs
        self.seen: Counter[str] = Counter()

    def outputs(self, beat: RunBeat) -> dict[str, int]:
        run, width = self.run, self.widths[self.run.second]
        offset = beat.address % width
        expected = {
            "address": beat.address % SPACE,
            "beat_address": (beat.address - offset) % SPACE,
            "offset": offset,
            "available": width - offset,
            "live": beat.live,
            "run_last": beat.run_last,
            "burst_last": beat.burst_last,
            "run_beyond": run.address + run.length > run.limit,
        }
        # Whoever passes the end of the address space has been outside the memory before.
        if beat.address < SPACE:
            expected["beyond"] = beat.address + beat.live > run.limit
            self.seen["beyond"] += expected["beyond"]
            self.seen["not yet beyond"] += expected["run_beyond"] and not expected["beyond"]
        else:
            self.seen["past the space"] += 1
        return expected

    async def walk(self) -> None:
        rng, seen = self.rng, self.seen
        for _ in range(CYCLES):
            advance = rng.random() < self.ready
            if self.beat is None:
                load = rng.random() < 0.5
            else:
                ends = advance and self.beat.run_last
                load = rng.random() < (0.8 if ends else 0.02)
                seen["back to back"] += ends and load
                seen["broken off"] += load and not ends
                seen["held"] += not (load or advance)
                seen["burst ends within a run"] += (
                    advance and self.beat.burst_last and not self.beat.run_last
                )
            following = draw_run(rng)  # noise but in a load
            self.bench.drive({
                "load": load, "address_in": following.address, "length_in": following.length,
                "second": self.run.second, "advance": advance, "limit": self.run.limit,
            })  # fmt: skip
            if self.beat is not None:
                self.bench.expect(self.outputs(self.beat))
            await self.bench.tick()
            if load:
                self.run = following
                self.beats = run_beats(
                    following.address, following.length,
                    width_bytes=self.widths[following.second], burst_bytes=self.burst_bytes,
                )  # fmt: skip
            if load or advance:
                self.beat = next(self.beats, None)


@pytest.mark.parametrize("ready", [1.0, 0.4])
@pytest.mark.parametrize(
    ("widths", "burst_bytes"),
    [((1, 1), 64), ((1, 64), 64), ((64, 16), 128), ((4, 4), 4), ((8, 2), 8), ((2, 32), 4096)],
)
def test_beats_are_the_words_that_a_run_touches(
    widths: tuple[int, int], burst_bytes: int, ready: float
) -> None:
    seed = f"{widths} {burst_bytes} {ready}"
    walks = Walks(widths, burst_bytes, ready, seed)
    walks.bench.run(walks.walk)
    seen = walks.seen
    wanted = ["back to back", "broken off", "beyond", "not yet beyond", "past the space"]
    if burst_bytes < 4096:
        wanted.append("burst ends within a run")
    assert all(seen[what] for what in wanted), f"{seen}"
    assert (seen["held"] > 50) == (ready < 1)


@pytest.mark.parametrize("width", [1, 4, 32])
def test_the_longest_run_ends_when_all_its_bytes_are_done(width: int) -> None:
    """All bits of a length count, seen where there are few of them."""
    bits = 9
    bench = PartBench(
        BeatWalker(widths_bytes=(width, width), burst_bytes=64, length_bits=bits),
        seed=f"width {width}",
    )

    async def run() -> None:
        bench.drive({"load": 1, "address_in": 3, "length_in": (1 << bits) - 1})
        await bench.tick()
        for beat in run_beats(3, (1 << bits) - 1, width_bytes=width, burst_bytes=64):
            bench.drive({"load": 0, "advance": 1})
            bench.expect({
                "address": beat.address, "live": beat.live, "run_last": beat.run_last,
                "burst_last": beat.burst_last,
            })  # fmt: skip
            await bench.tick()

    bench.run(run)


@pytest.mark.parametrize("burst_bytes", [8, 64])
@pytest.mark.parametrize("width", [1, 8])
def test_the_beats_of_the_model_are_the_runs_bytes_grouped(width: int, burst_bytes: int) -> None:
    """The model word by word against the page's definition byte by byte."""
    for address in range(10):
        for length in range(1, 100):
            beats = list(run_beats(address, length, width_bytes=width, burst_bytes=burst_bytes))
            places = [list(range(b.address, b.address + b.live)) for b in beats]
            assert [p for beat in places for p in beat] == list(range(address, address + length))
            assert all(len({p // width for p in beat}) == 1 for beat in places)
            assert len({p[0] // width for p in places}) == len(places)
            assert [b.run_last for b in beats] == [False] * (len(beats) - 1) + [True]
            bursts = [p[0] // burst_bytes for p in places]
            ends = [a != b for a, b in zip(bursts, [*bursts[1:], None], strict=True)]
            assert [b.burst_last for b in beats] == ends
