"""Bandwidths and latencies of a run other than those that its machine was built with.

They are registers of the pacers, so that one build of the RTL runs programs of many timings. The
simulator knows a machine with the drawn ports; the RTL is told the difference.
"""

import dataclasses
import random
from fractions import Fraction

from systol_hw.arch import Arch, MemoryPort
from systol_hw.tables.registers import latency_limit

_LEAST_LATENCY, _GREATEST_LATENCY = 8, 511
_LEAST_RATE = Fraction(1, 2)
_GREATEST_TERM = 4095


def draw_timing(arch: Arch, rng: random.Random) -> Arch:
    """`arch` with other bandwidths and latencies, within what a machine built for `arch` can be
    set to."""
    return dataclasses.replace(
        arch,
        weight_port=_draw_port(arch.weight_port, rng),
        host_port=_draw_port(arch.host_port, rng),
    )


def _draw_port(built: MemoryPort, rng: random.Random) -> MemoryPort:
    width = built.width_bytes
    rate = rng.choice(
        (built.bytes_per_cycle, Fraction(width), Fraction(width), Fraction(width),
         _fraction(rng, Fraction(width, 2), Fraction(width)),
         _fraction(rng, _LEAST_RATE, Fraction(width)))
    )
    most = min(_GREATEST_LATENCY, latency_limit(built.latency_cycles))
    latency = rng.choice(
        (built.latency_cycles, _LEAST_LATENCY, rng.randint(_LEAST_LATENCY, min(most, 24)),
         rng.randint(_LEAST_LATENCY, most))
    )
    return dataclasses.replace(built, bytes_per_cycle=rate, latency_cycles=latency)


def _fraction(rng: random.Random, low: Fraction, high: Fraction) -> Fraction:
    """A fraction in low .. high with an odd denominator now and then."""
    denominator = rng.choice((1, 2, 3, 7, rng.randint(1, _GREATEST_TERM // int(high + 1))))
    least, most = -(-low * denominator // 1), high * denominator // 1
    return Fraction(rng.randint(int(least), max(int(least), int(most))), denominator)
