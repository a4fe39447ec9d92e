"""The beats of a run, word by word, as section 3.2 of the timing contract has them."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["RunBeat", "run_beats"]


@dataclass(frozen=True)
class RunBeat:
    """`live` bytes of the run from `address` on; whether the beat ends its run, its burst."""

    address: int
    live: int
    run_last: bool
    burst_last: bool


def run_beats(
    address: int, length: int, *, width_bytes: int, burst_bytes: int
) -> Iterator[RunBeat]:
    """The words of `width_bytes` that `length` bytes from `address` on touch, in ascending order.

    Addresses are not wrapped: a run beyond the end of the address space goes on above it.
    """
    end = address + length
    for word in range(address // width_bytes, (end - 1) // width_bytes + 1):
        first = max(address, word * width_bytes)
        after = min(end, (word + 1) * width_bytes)
        block_changes = after // burst_bytes != (after - 1) // burst_bytes
        yield RunBeat(
            address=first,
            live=after - first,
            run_last=after == end,
            burst_last=after == end or block_changes,
        )
