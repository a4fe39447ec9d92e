"""Allocation: what is alive together never overlaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.allocate import Allocation, Request, allocate
from systol_hw.arch import PRESETS

NANO = PRESETS["nano"]

requests = st.lists(
    st.tuples(st.integers(1, 6000), st.integers(0, 10), st.integers(0, 5), st.booleans()),
    min_size=1, max_size=12,
)


@given(entries=requests)
def test_random_requests_never_overlap(entries: list[tuple[int, int, int, bool]]) -> None:
    wanted = tuple(
        Request(name=str(i), size_bytes=size, first=first, last=first + length, high=high)
        for i, (size, first, length, high) in enumerate(entries)
    )
    found = allocate(wanted, NANO)
    if found is None:
        alive = max(
            sum(r.size_bytes + NANO.ub_width_bytes for r in wanted if r.first <= t <= r.last)
            for t in range(17)
        )
        # The greedy placement may fail by fragmentation, but never while much is free.
        assert alive > NANO.ub_bytes // 3
        return
    found.verify(NANO)
    used: dict[tuple[int, int], str] = {}
    for item in wanted:
        low = found.addresses[item.name]
        assert 0 <= low and low + item.size_bytes <= NANO.ub_bytes
        for time in range(item.first, item.last + 1):
            for place in range(low, low + item.size_bytes):
                assert used.setdefault((time, place), item.name) == item.name


def test_buffers_of_other_times_share_a_place() -> None:
    found = allocate(
        (
            Request(name="a", size_bytes=16384, first=0, last=1),
            Request(name="b", size_bytes=16384, first=2, last=3),
        ),
        NANO,
    )
    assert found is not None
    assert dict(found.addresses) == {"a": 0, "b": 0}


def test_high_requests_lie_at_the_end() -> None:
    found = allocate(
        (
            Request(name="a", size_bytes=100, first=0, last=1),
            Request(name="p", size_bytes=64, first=0, last=1, high=True),
        ),
        NANO,
    )
    assert found is not None
    assert dict(found.addresses) == {"a": 0, "p": NANO.ub_bytes - 64}
    assert found.peak_bytes == 164
    assert "%p" in str(found)


def test_too_much_at_once_is_none() -> None:
    pair = tuple(Request(name=n, size_bytes=9000, first=0, last=0) for n in "ab")
    assert allocate(pair, NANO) is None


def test_verifier_sees_an_overlap() -> None:
    pair = tuple(Request(name=n, size_bytes=10, first=0, last=0) for n in "ab")
    with pytest.raises(AssertionError):
        Allocation(requests=pair, addresses={"a": 0, "b": 8}, peak_bytes=18).verify(NANO)
