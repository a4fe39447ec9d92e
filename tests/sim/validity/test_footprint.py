"""Regions and intervals against sets, and addresses at the edges.

test_every_operation.py compares each operation's footprint with what its loops touch.
"""

import itertools
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.isa import instruction
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.validity import footprint as footprint_module
from systol_sim.validity.footprint import UB, WINDOW, Region, box, footprint, merge_intervals


def test_addresses_wrap_at_32_bits() -> None:
    item = instruction(
        "read_host", memory_address=(1 << 32) - 4, run_bytes=2, count0=3, memory_stride0=2
    )
    (memory,) = footprint(item, FUZZ_MACHINES[0]).reads
    assert memory.last == (1 << 32) + 1, "a run that crosses the end is kept whole, outside"
    for operation, space in (("read_host", WINDOW + 5), ("write_host_alternate", WINDOW + 13)):
        found = footprint(instruction(operation, window=5), FUZZ_MACHINES[0])
        assert space in [region.space for region in (*found.reads, *found.writes)]
    item = instruction("matmul", ub_address=-3, p_start=-3, p_limit=5, k_last=8)
    (buffer,) = footprint(item, FUZZ_MACHINES[0]).reads
    assert (buffer.first, buffer.last) == (0, 4)


@given(
    st.integers(-50, 50),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 5), st.integers(-20, 20)), max_size=4),
)
def test_box_is_the_union_of_its_runs(
    base: int, length: int, loops: list[tuple[int, int]]
) -> None:
    expected = set()
    for turns in itertools.product(*(range(count) for count, _ in loops)):
        first = base + sum(t * stride for t, (_, stride) in zip(turns, loops, strict=True))
        expected |= set(range(first, first + length))
    starts, ends = box(base, length, loops)
    found = [place for a, b in zip(starts, ends, strict=True) for place in range(a, b)]
    assert found == sorted(expected)
    assert (starts[1:] > ends[:-1]).all(), "intervals must be disjoint and not touch"


@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(0, 16),
)
def test_what_is_inside_a_row_is_so_modulo_the_address_span(
    pieces: list[tuple[int, int]], limit: int
) -> None:
    with mock.patch.object(footprint_module, "ADDRESS_SPAN", 16):
        region = _region(pieces)
        starts, ends = footprint_module._inside((region.starts, region.ends), limit)
    found = [place for a, b in zip(starts, ends, strict=True) for place in range(a, b)]
    expected = {place % 16 for start, length in pieces for place in range(start, start + length)}
    assert found == sorted(place for place in expected if place < limit)
    assert (starts < ends).all()


_INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=8)


def _region(pieces: list[tuple[int, int]]) -> Region:
    starts = np.array([start for start, _ in pieces])
    merged = merge_intervals(starts, starts + np.array([length for _, length in pieces]))
    return Region(space=UB, starts=merged[0], ends=merged[1])


@given(_INTERVALS, _INTERVALS, st.integers(0, 70), st.integers(0, 70))
def test_regions_behave_as_sets(
    a: list[tuple[int, int]], b: list[tuple[int, int]], low: int, high: int
) -> None:
    left, right = _region(a), _region(b)
    left_set, right_set = set(left.places().tolist()), set(right.places().tolist())
    assert left.size == len(left_set)
    assert left.overlap(right) == min(left_set & right_set, default=None)
    clipped = left.clip(low, high)
    kept = set() if clipped is None else set(clipped.places().tolist())
    assert kept == {
        place for place in left_set if low <= place < high
    }
