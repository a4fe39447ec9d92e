"""Machines for random testing: small, odd, and each at the edge of some parameter."""

from fractions import Fraction

from systol_hw.arch import PRESETS, Arch, MemoryPort


def _port(width: int, bandwidth: Fraction | int, latency: int) -> MemoryPort:
    return MemoryPort(
        width_bytes=width, bytes_per_cycle=Fraction(bandwidth), latency_cycles=latency
    )


FUZZ_MACHINES: tuple[Arch, ...] = (
    PRESETS["nano"],
    # Wide, fast ports: units overlap more than the instruction fetch allows on nano.
    Arch(
        name="fuzz-fast", rows=8, columns=8, ub_bytes=4096, accumulator_rows=64,
        weight_fifo_tiles=2, weight_port=_port(8, 8, 8), host_port=_port(8, 8, 8),
        vector_lanes=8,
    ),
    # One bank: every pair of reads collides, and so does every Load with every Vector write.
    Arch(
        name="fuzz-one-bank", rows=8, columns=8, ub_bytes=2048, ub_banks=1, accumulator_rows=32,
        weight_fifo_tiles=3, weight_port=_port(8, Fraction(15, 2), 9), host_port=_port(4, 4, 11),
        burst_bytes=32, vector_lanes=4, vector_write_rows=2,
    ),
    # Everything that can be one is one.
    Arch(
        name="fuzz-ones", rows=4, columns=4, ub_bytes=1024, ub_banks=2, accumulator_rows=16,
        weight_fifo_tiles=1, weight_port=_port(8, 7, 8), host_port=_port(8, Fraction(13, 2), 8),
        burst_bytes=8, vector_lanes=1, queue_depth=1, fetch_buffer_instructions=1,
        inflight_instructions=1, token_limit=1, vector_write_rows=1, store_buffer_beats=1,
    ),
    Arch(
        name="fuzz-tall", rows=12, columns=4, ub_bytes=4096, ub_banks=4, accumulator_rows=32,
        weight_fifo_tiles=2, weight_port=_port(16, Fraction(340, 27), 17),
        host_port=_port(2, Fraction(3, 2), 23), burst_bytes=16, vector_lanes=2, queue_depth=2,
        token_limit=3,
    ),
    Arch(
        name="fuzz-wide", rows=4, columns=16, ub_bytes=8192, ub_banks=8, accumulator_rows=64,
        weight_fifo_tiles=5, weight_port=_port(4, Fraction(11, 3), 31),
        host_port=_port(16, 16, 8), burst_bytes=64, vector_lanes=16, inflight_instructions=2,
        vector_write_rows=3,
    ),
    Arch(
        name="fuzz-fetch-one", rows=5, columns=6, ub_bytes=1536, ub_banks=3, accumulator_rows=16,
        weight_fifo_tiles=2, weight_port=_port(8, 8, 12), host_port=_port(8, 5, 40),
        burst_bytes=128, vector_lanes=3, fetch_buffer_instructions=1, queue_depth=3,
        store_buffer_beats=2,
    ),
    # Slow memories and a deep FIFO: weight stalls, port waits, long flights.
    Arch(
        name="fuzz-slow", rows=8, columns=10, ub_bytes=4096, ub_banks=2, accumulator_rows=128,
        weight_fifo_tiles=16, weight_port=_port(8, Fraction(17, 5), 61),
        host_port=_port(4, Fraction(7, 9), 97), burst_bytes=256, vector_lanes=5,
        inflight_instructions=8, queue_depth=16, token_limit=15,
    ),
    # Slow vector lanes and a single held row: Vector waits for its lanes and its writes.
    Arch(
        name="fuzz-one-lane", rows=16, columns=8, ub_bytes=2048, ub_banks=2, accumulator_rows=8,
        weight_fifo_tiles=2, weight_port=_port(16, 16, 8), host_port=_port(16, Fraction(31, 2), 8),
        burst_bytes=64, vector_lanes=1, vector_write_rows=1, queue_depth=2, token_limit=2,
    ),
    Arch(
        name="fuzz-inflight-one", rows=7, columns=12, ub_bytes=4096, ub_banks=4,
        accumulator_rows=64, weight_fifo_tiles=1, weight_port=_port(16, 12, 19),
        host_port=_port(8, 8, 33), burst_bytes=32, vector_lanes=12, inflight_instructions=1,
        store_buffer_beats=1, queue_depth=8,
    ),
    Arch(
        name="fuzz-tiny", rows=4, columns=4, ub_bytes=256, ub_banks=8, accumulator_rows=4,
        weight_fifo_tiles=2, weight_port=_port(8, 8, 8), host_port=_port(1, 1, 8),
        burst_bytes=8, vector_lanes=4, queue_depth=2, token_limit=4, vector_write_rows=64,
        store_buffer_beats=64, fetch_buffer_instructions=16,
    ),
    Arch(
        name="fuzz-square16", rows=16, columns=16, ub_bytes=16384, ub_banks=16,
        accumulator_rows=256, weight_fifo_tiles=4, weight_port=_port(16, Fraction(4095, 256), 8),
        host_port=_port(16, 16, 8), burst_bytes=4096, vector_lanes=8,
    ),
)
"""Machines that `systol fuzz` draws from, smallest surprises first."""

WIDE_PORTS: tuple[Arch, ...] = (
    # Half an instruction a beat, and one.
    Arch(
        name="fuzz-port-32", rows=4, columns=32, ub_bytes=4096, ub_banks=4, accumulator_rows=16,
        weight_fifo_tiles=2, weight_port=_port(32, Fraction(63, 2), 9), host_port=_port(32, 32, 8),
        burst_bytes=64, vector_lanes=16, queue_depth=3, inflight_instructions=4,
    ),
    Arch(
        name="fuzz-port-64", rows=6, columns=64, ub_bytes=4096, ub_banks=2, accumulator_rows=32,
        weight_fifo_tiles=3, weight_port=_port(64, 64, 8),
        host_port=_port(64, Fraction(127, 3), 14), burst_bytes=64, vector_lanes=32,
        fetch_buffer_instructions=2, token_limit=2,
    ),
)
"""Machines with the widest ports: they need wide arrays, so they take longer to build."""
