"""Machines in which every pair of parameter values occurs together.

A *factor* is a parameter of the machine, or what matters of one, with a few classes. Those of
`systol_sim.fuzz.machines` stay; more are drawn and kept, the one with the most new pairs first,
until all pairs are covered.

Ref: Cohen, Dalal, Fredman and Patton, The AETG system: an approach to testing based on
combinatorial design, 1997: the greedy choice among random candidates.
"""

import functools
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import combinations, product

from systol_hw.arch import Arch, MemoryPort
from systol_hw.errors import ConfigurationError
from systol_sim.fuzz.machines import FUZZ_MACHINES, WIDE_PORTS

_SHAPES = {
    "square": ((4, 4), (8, 8), (12, 12)),
    "wide": ((4, 12), (4, 8), (8, 12)),
    "tall": ((12, 4), (8, 4), (12, 8)),
    "odd": ((5, 6), (7, 10), (9, 6), (11, 6), (6, 10)),
}
_CANDIDATES, _SURVEYED = 60, 500
_UB_LEAST, _UB_LITTLE, _UB_MUCH = 256, 1024, 4096


def _shape(arch: Arch) -> str:
    """Odd: neither side a power of two, so that lines fill no power of two."""
    rows, columns = arch.rows, arch.columns
    if (rows, columns) in _SHAPES["odd"]:
        return "odd"
    return "square" if rows == columns else "wide" if rows < columns else "tall"


def _lanes(arch: Arch) -> str:
    if arch.vector_lanes in (1, arch.columns):
        return "one" if arch.vector_lanes == 1 else "all"
    return "some"


def _ranges(name: str, *limits: int) -> Callable[[Arch], str]:
    """Classes of an integer parameter: up to each of `limits`, and above the last."""

    def classify(arch: Arch) -> str:
        value = int(getattr(arch, name))
        for limit in limits:
            if value <= limit:
                return f"<= {limit}"
        return f"> {limits[-1]}"

    return classify


FACTORS: Mapping[str, Callable[[Arch], str]] = {
    "shape": _shape,
    "ub_bytes": _ranges("ub_bytes", _UB_LITTLE, _UB_MUCH),
    "ub_banks": _ranges("ub_banks", 1, 3, 4),
    "accumulator_rows": _ranges("accumulator_rows", 8, 32),
    "weight_fifo_tiles": _ranges("weight_fifo_tiles", 1, 3),
    "weight port": lambda arch: f"{min(arch.weight_port.width_bytes, 16)} bytes",
    "host port": lambda arch: f"{min(arch.host_port.width_bytes, 16)} bytes",
    "burst_bytes": _ranges("burst_bytes", 16, 64),
    "vector_lanes": _lanes,
    "queue_depth": _ranges("queue_depth", 1, 3),
    "fetch_buffer_instructions": _ranges("fetch_buffer_instructions", 1, 4),
    "inflight_instructions": _ranges("inflight_instructions", 1, 4),
    "token_limit": _ranges("token_limit", 1, 4),
    "vector_write_rows": _ranges("vector_write_rows", 1, 3),
    "store_buffer_beats": _ranges("store_buffer_beats", 1, 4),
}
"""Name and class function of every factor."""

Pair = tuple[tuple[str, str], tuple[str, str]]
"""Two factors, each with a class."""


def pairs(arch: Arch) -> set[Pair]:
    """The pairs that `arch` covers."""
    return set(combinations([(name, classify(arch)) for name, classify in FACTORS.items()], 2))


def _draw(rng: random.Random, name: str) -> Arch | None:
    """A random machine, or None where the draws do not fit together."""
    shape = rng.choice(tuple(_SHAPES))
    rows, columns = rng.choice(_SHAPES[shape])
    banks = rng.choice((1, 2, 3, 4, 8, 16))
    total = rng.choice((_UB_LEAST, _UB_LITTLE, 2048, _UB_MUCH, 2 * _UB_MUCH))
    bank_bytes = 1 << max(0, (total // banks).bit_length() - 1)

    def port() -> MemoryPort:
        width = rng.choice((1, 2, 4, 8, 16))
        rate = rng.choice((Fraction(width), Fraction(3 * width, 4), Fraction(7 * width, 9)))
        return MemoryPort(
            width_bytes=width, bytes_per_cycle=rate, latency_cycles=rng.choice((8, 9, 19, 40))
        )

    try:
        return Arch(
            name=name,
            rows=rows,
            columns=columns,
            ub_bytes=bank_bytes * banks,
            ub_banks=banks,
            accumulator_rows=rng.choice((4, 8, 16, 32, 64, 256)),
            weight_fifo_tiles=rng.choice((1, 2, 3, 5, 16)),
            weight_port=port(),
            host_port=port(),
            burst_bytes=rng.choice((8, 16, 32, 64, 128, 4096)),
            vector_lanes=rng.choice([n for n in range(1, columns + 1) if columns % n == 0]),
            queue_depth=rng.choice((1, 2, 3, 4, 16)),
            fetch_buffer_instructions=rng.choice((1, 2, 4, 16)),
            inflight_instructions=rng.choice((1, 2, 4, 8)),
            token_limit=rng.choice((1, 2, 4, 15, 255)),
            vector_write_rows=rng.choice((1, 2, 3, 8, 64)),
            store_buffer_beats=rng.choice((1, 2, 4, 16, 64)),
        )
    except ConfigurationError:
        return None


def all_pairs() -> set[Pair]:
    """Every class of every factor with every class of every other; machines can have them all."""
    rng = random.Random("classes")
    drawn = [arch for _ in range(_SURVEYED) if (arch := _draw(rng, "survey")) is not None]
    classes = [
        [(name, found) for found in sorted({classify(arch) for arch in drawn})]
        for name, classify in FACTORS.items()
    ]
    return {pair for left, right in combinations(classes, 2) for pair in product(left, right)}


@functools.cache
def covering_machines() -> tuple[Arch, ...]:
    """`FUZZ_MACHINES`, machines that complete the pairs, and `WIDE_PORTS`."""
    machines = list(FUZZ_MACHINES)
    missing = all_pairs().difference(*(pairs(arch) for arch in machines))
    rng = random.Random("covering machines")
    while missing:
        name = f"fuzz-pairs-{len(machines):02}"
        candidates = [arch for _ in range(_CANDIDATES) if (arch := _draw(rng, name)) is not None]
        best = max(candidates, key=lambda arch: len(missing & pairs(arch)))
        missing -= pairs(best)
        machines.append(best)
    return (*machines, *WIDE_PORTS)
