"""Allocation: what is alive together never overlaps."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.plan.allocation import Allocation, Overflow, Request, allocate
from systol_compiler.plan.choices import Placement
from systol_hw.arch import PRESETS

NANO = PRESETS["nano"]


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, ...]:
    wanted = []
    for i in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, 10))
        last = first + draw(st.integers(0, 5))
        times = st.none() | st.tuples(st.integers(first, last), st.integers(0, 3)).map(
            lambda pair, last=last: (pair[0], min(sum(pair), last))  # type: ignore[misc]
        )
        stored = draw(times)
        wanted.append(
            Request(
                name=str(i), size_bytes=draw(st.integers(1, 6000)), first=first, last=last,
                high=draw(st.booleans()), read=draw(times), loaded=draw(times),
                vector_read=draw(times), placement=draw(st.sampled_from(Placement)),
                # Store may still read what is free for others already.
                stored=(stored[0], last + 1) if stored and draw(st.booleans()) else stored,
                written=draw(times),
            )
        )
    return tuple(wanted)


@given(wanted=requests(), apart=st.booleans())
def test_random_requests_never_overlap(wanted: tuple[Request, ...], apart: bool) -> None:
    found = allocate(wanted, NANO, apart=apart)
    if isinstance(found, Overflow):
        alive = max(
            sum(r.size_bytes + NANO.ub_width_bytes for r in wanted if r.first <= t <= r.last)
            for t in range(17)
        )
        # The greedy placement may fail by fragmentation, but never while much is free.
        assert apart or alive > NANO.ub_bytes // 3
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
    assert isinstance(found, Allocation)
    assert dict(found.addresses) == {"a": 0, "b": 0}


def test_high_requests_lie_at_the_end() -> None:
    found = allocate(
        (
            Request(name="a", size_bytes=100, first=0, last=1),
            Request(name="p", size_bytes=64, first=0, last=1, high=True),
        ),
        NANO,
    )
    assert isinstance(found, Allocation)
    assert dict(found.addresses) == {"a": 0, "p": NANO.ub_bytes - 64}
    assert found.peak_bytes == 164
    assert "request 'p' at 16320 size_bytes=64 " in str(found)


def test_too_much_at_once_names_what_found_no_place() -> None:
    pair = tuple(Request(name=n, size_bytes=9000, first=0, last=0) for n in "ab")
    assert allocate(pair, NANO) == Overflow(request=pair[1])


def test_verifier_sees_an_overlap() -> None:
    pair = tuple(Request(name=n, size_bytes=10, first=0, last=0) for n in "ab")
    with pytest.raises(AssertionError):
        Allocation(requests=pair, addresses={"a": 0, "b": 8}, peak_bytes=18).verify(NANO)


def test_store_reads_no_bank_that_is_read_meanwhile() -> None:
    bank = NANO.bank_bytes
    read = Request(name="x", size_bytes=bank // 2, first=0, last=1, read=(1, 1))
    calm = Request(name="y", size_bytes=bank // 4, first=0, last=1, stored=(0, 0))
    rival = Request(name="y", size_bytes=bank // 4, first=0, last=1, stored=(0, 1))
    for stored, address in ((calm, bank // 2), (rival, bank)):
        found = allocate((read, stored), NANO)
        assert isinstance(found, Allocation)
        assert dict(found.addresses) == {"x": 0, "y": address}
        assert found.shared_banks(NANO) == 0


def test_results_wait_for_no_store() -> None:
    size = NANO.bank_bytes
    found = allocate(
        (
            Request(name="y0", size_bytes=size, first=0, last=0, stored=(1, 1)),
            Request(name="y1", size_bytes=size, first=1, last=1, stored=(2, 2)),
            Request(name="y2", size_bytes=size, first=2, last=2, stored=(3, 3)),
        ),
        NANO,
    )
    assert isinstance(found, Allocation)
    assert dict(found.addresses) == {"y0": 0, "y1": size, "y2": 0}


def test_banks_in_common_are_counted_where_space_is_short() -> None:
    half = NANO.ub_bytes // 2 - NANO.bank_bytes // 2
    found = allocate(
        (
            Request(name="x", size_bytes=half, first=0, last=0, read=(0, 0)),
            Request(name="y", size_bytes=NANO.ub_bytes - half, first=0, last=0, stored=(0, 0)),
        ),
        NANO,
    )
    assert isinstance(found, Allocation)
    assert found.shared_banks(NANO) == 1


def test_load_writes_no_bank_that_the_vector_unit_writes_meanwhile() -> None:
    bank = NANO.bank_bytes
    read = Request(name="x", size_bytes=bank // 2, first=0, last=1, read=(1, 1), loaded=(0, 1))
    later = Request(name="y", size_bytes=bank // 4, first=0, last=2, written=(2, 2))
    rival = Request(name="y", size_bytes=bank // 4, first=0, last=2, written=(1, 1))
    for written, address in ((later, bank // 2), (rival, bank)):
        found = allocate((read, written), NANO)
        assert isinstance(found, Allocation)
        assert dict(found.addresses) == {"x": 0, "y": address}


def test_what_only_fits_without_regard_to_banks_still_fits() -> None:
    half = NANO.bank_bytes // 2
    # In banks of its own, c would leave b two places of one half each.
    found = allocate(
        (
            Request(name="a", size_bytes=3 * half, first=0, last=1, loaded=(0, 1)),
            Request(name="b", size_bytes=2 * half, first=1, last=1, written=(1, 1)),
            Request(name="c", size_bytes=3 * half, first=1, last=2, written=(1, 2)),
        ),
        NANO,
    )
    assert isinstance(found, Allocation)
    found.verify(NANO)


def common_banks(found: Allocation, one: str, other: str) -> int:
    """Banks that two requests have in common."""
    banks = [
        {
            byte // NANO.bank_bytes
            for byte in range(found.addresses[r.name], found.addresses[r.name] + r.size_bytes)
        }
        for r in found.requests if r.name in (one, other)
    ]
    return len(banks[0] & banks[1])


def test_one_buffer_that_nearly_fills_the_memory_leaves_room_at_both_ends() -> None:
    """The array's pieces and what the vector unit reads meanwhile share no bank."""
    slots = [
        Request(
            name=name, size_bytes=700, first=0, last=0, placement=Placement.MIDDLE,
            read=(0, 0) if name[0] == "m" else None,
            vector_read=(0, 0) if name[0] == "v" else None,
        )
        for name in ("m0", "v0", "m1", "v1")
    ]
    large = Request(
        name="large", size_bytes=NANO.ub_bytes - 3200, first=0, last=3, vector_read=(0, 3),
        placement=Placement.MIDDLE,
    )
    found = allocate((large, *slots), NANO)
    assert isinstance(found, Allocation)
    assert found.addresses["large"] >= 1400
    for one in ("m0", "m1"):
        assert all(common_banks(found, one, other) == 0 for other in ("v0", "v1"))
        assert found.addresses[one] < found.addresses["large"]


def test_what_is_read_stands_below_what_is_written_at_two_ends() -> None:
    read = Request(name="x", size_bytes=3000, first=0, last=0, read=(0, 0))
    written = Request(name="y", size_bytes=3000, first=0, last=0, written=(0, 0))
    for placement, address in ((Placement.CALM, 3000), (Placement.ENDS, NANO.ub_bytes - 3000)):
        pair = [replace(item, placement=placement) for item in (read, written)]
        found = allocate(pair, NANO)
        assert isinstance(found, Allocation)
        assert dict(found.addresses) == {"x": 0, "y": address}
