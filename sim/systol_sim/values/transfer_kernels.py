"""The compiled loop of the fast values' transfers, and the span of nested loops."""

from systol_sim.jit.compiled import compiled

MASK = 0xFFFFFFFF

TRANSFER_FIELDS = (
    "memory_address", "ub_address", "run_bytes", "count0", "count1", "memory_stride0",
    "memory_stride1", "ub_stride0", "ub_stride1",
)  # fmt: skip
"""What `transfer` is told of an instruction, in this order."""


@compiled
def transfer(memory, ub, f, loads):  # type: ignore[no-untyped-def]
    """Copy every run between `memory` and `ub` (uint8 each); into `ub` with `loads`."""
    first, here, length, count0, count1 = f[0], f[1], f[2], f[3], f[4]
    stride0, stride1, ub_stride0, ub_stride1 = f[5], f[6], f[7], f[8]
    for turn in range(count1):
        for run in range(count0):
            a = (first + turn * stride1 + run * stride0) & MASK
            b = (here + turn * ub_stride1 + run * ub_stride0) & MASK
            if loads:
                ub[b : b + length] = memory[a : a + length]
            else:
                memory[a : a + length] = ub[b : b + length]


def span(base: int, length: int, *loops: tuple[int, int]) -> tuple[int, int]:
    """An interval that holds every place of nested (count, step) loops: low, high.

    Where addresses may wrap modulo 2**32 it is that of all addresses.
    """
    low, high = base, base + length
    for count, step in loops:
        low += min(0, (count - 1) * step)
        high += max(0, (count - 1) * step)
    if low < 0 or high > 1 << 32:
        return 0, 1 << 32
    return low, high
