"""Places requests in the unified buffer by liveness: who is alive together never overlaps.

Among the free places, the one is best that keeps units out of each other's way: Store goes before
the matrix unit in a bank that both read, Load before the vector unit in one that both write, and
what is written where Store still reads has to wait.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from systol_compiler.plan.choices import Placement
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import show_fields
from systol_compiler.text.statement import wrapped
from systol_compiler.text.tokens import quote
from systol_hw.arch import Arch

Times = tuple[int, int]
"""First and last time, both included."""
_REPAIRS = 24
"""Repetitions of a placement, each with one more request before all others."""
_STORE_RIVALRY = 0.5
_OPERAND_RIVALRY = 0.25
_CALM_REQUESTS = 1500
"""Above, requests take the lowest place: weighing each place costs the square of their number."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """`size_bytes` that are in use from time `first` to time `last`, both included.

    `high` asks for the highest place instead of the lowest: for what the vector unit reads while
    the matrix unit reads activations, which go before it in their bank in every cycle.
    """

    name: str
    size_bytes: int
    first: int
    last: int
    high: bool = False
    placement: Placement = Placement.CALM
    read: Times | None = None
    """When the matrix unit (or Weights) reads it."""
    vector_read: Times | None = None
    """When the vector unit reads it."""
    stored: Times | None = None
    """When Store reads it; the last may be the one behind its life."""
    loaded: Times | None = None
    """When Load writes it."""
    written: Times | None = None
    """When the vector unit writes it."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Addresses by request name; `peak_bytes` is what low and high places take together."""

    requests: tuple[Request, ...]
    addresses: Mapping[str, int]
    peak_bytes: int

    def shared_banks(self, arch: Arch) -> int:
        """Banks in which Store and another unit read, for each two requests and each time."""
        read: dict[int, list[Request]] = {}
        for item in self.requests:
            for times in (item.read, item.vector_read):
                if times is not None:
                    for time in range(times[0], times[1] + 1):
                        read.setdefault(time, []).append(item)
        at = self.addresses
        return sum(
            _common_banks(at[item.name], item.size_bytes, at[other.name], other.size_bytes, arch)
            for item in self.requests if item.stored is not None
            for time in range(item.stored[0], item.stored[1] + 1)
            for other in read.get(time, ())
        )

    def verify(self, arch: Arch) -> None:
        """Check that all lies in the buffer and that nothing alive together overlaps."""
        low = np.array([self.addresses[item.name] for item in self.requests])
        end = low + np.array([item.size_bytes for item in self.requests])
        first = np.array([item.first for item in self.requests])
        last = np.array([item.last for item in self.requests])
        assert (low >= 0).all() and (end <= arch.ub_bytes).all()
        for i, item in enumerate(self.requests):
            clash = (first[:i] <= item.last) & (item.first <= last[:i])
            clash &= (low[:i] < end[i]) & (low[i] < end[:i])
            assert not clash.any(), (item.name, self.requests[int(np.argmax(clash))].name)

    def lines(self) -> list[str]:
        """A statement of text for each request."""
        printer = Printer()
        return [
            wrapped([
                f"request {quote(item.name)} at {self.addresses[item.name]}",
                *show_fields(item, printer, ("name",)),
            ])
            for item in self.requests
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass(frozen=True, kw_only=True)
class Overflow:
    """Why an allocation failed: `request` found no place."""

    request: Request


def allocate(
    requests: Sequence[Request], arch: Arch, *, apart: bool = False
) -> Allocation | Overflow:
    """Addresses for all of `requests`, or the one for which no greedy placement finds a place.

    With `apart`, no other request shares a bank of the unified buffer with a high one.

    High requests choose first and take the highest aligned address that is free throughout their
    life. Then small pieces that the matrix unit reads keep to the bottom, far from what the vector
    unit must read meanwhile, and the largest of the others (in eighths of a bank, so that time
    orders about equal ones) follow, each where its `Placement` says: calm ones where units disturb
    each other least, the lowest of equals. What finds no place goes before all others in a
    repetition, then all that is alive beside it. If nothing fits, all are calm and no piece goes
    first, and at last the largest take the lowest free address.
    """
    if len(requests) <= _CALM_REQUESTS:
        for order in (_Order.SLOTS_FIRST, _Order.LARGEST_FIRST):
            found = _repaired(requests, arch, apart, order)
            if found is not None:
                return found
    return _place(requests, arch, apart, _Order.PLAIN)


def _repaired(
    requests: Sequence[Request], arch: Arch, apart: bool, order: "_Order"
) -> Allocation | None:
    """A placement in `order`, repeated with what found no place before all others."""
    urgent: set[str] = set()
    plain: set[str] = set()
    for _ in range(_REPAIRS):
        placed = _place(requests, arch, apart, order, urgent=urgent, plain=plain)
        if isinstance(placed, Allocation):
            return placed
        failed = placed.request
        if failed.name not in urgent:
            urgent.add(failed.name)
            continue
        if failed.name not in plain:
            plain.add(failed.name)
            continue
        # Give up calm for all that is alive beside it, and keep it elsewhere.
        beside = {
            item.name for item in requests
            if item.first <= failed.last and failed.first <= item.last
        }
        if beside <= plain:
            return None
        urgent |= beside
        plain |= beside
    return None


class _Placed:
    """What has a place, as arrays that grow."""

    def __init__(self, most: int) -> None:
        self.numbers: npt.NDArray[np.int64] = np.zeros((4, most), np.int64)
        self.items: list[Request] = []

    def add(self, item: Request, address: int) -> None:
        column = (item.first, item.last, address, address + item.size_bytes)
        self.numbers[:, len(self.items)] = column
        self.items.append(item)

    def near(self, item: Request) -> npt.NDArray[np.int64]:
        """Indices of what is alive beside `item`, or just before or after."""
        first, last = self.numbers[:2, : len(self.items)]
        return np.flatnonzero((first - 1 <= item.last) & (item.first <= last + 1))

    def taken(self, item: Request, near: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Ranges of addresses that `item` cannot have, in ascending order."""
        first, last, low, end = self.numbers[:, near]
        alive = (item.first <= last) & (first <= item.last)
        return sorted(zip(low[alive].tolist(), end[alive].tolist(), strict=True))


class _Order(Enum):
    """Who chooses first. Placements count in the first alone, calm in all but the last."""

    SLOTS_FIRST = auto()
    LARGEST_FIRST = auto()
    PLAIN = auto()


def _place(
    requests: Sequence[Request], arch: Arch, apart: bool, order: _Order, *,
    urgent: Set[str] = frozenset(), plain: Set[str] = frozenset(),
) -> Allocation | Overflow:
    align = arch.ub_width_bytes
    placed = _Placed(len(requests))
    addresses: dict[str, int] = {}
    limit = arch.ub_bytes
    middle: set[str] = set()
    if order is _Order.PLAIN:
        queue = sorted(requests, key=lambda r: (not r.high, -r.size_bytes, r.first, r.name))
    else:
        eighth = max(1, arch.bank_bytes // 8)
        slots_first = order is _Order.SLOTS_FIRST
        middle = {
            item.name for item in requests
            if slots_first and item.placement is Placement.MIDDLE and item.read is None
            and item.size_bytes >= arch.bank_bytes
        }
        # What is stored chooses before what is loaded at the same time, which can wait for a store.
        queue = sorted(
            requests,
            key=lambda r: (
                not r.high, r.name not in urgent, r.name not in middle,
                not (slots_first and _is_slot(r, arch)),
                -r.size_bytes // (1 if r.name in urgent else eighth), r.first, r.stored is None,
            ),
        )
    top, bottom = 0, arch.ub_bytes
    for item in queue:
        ends = order is _Order.SLOTS_FIRST and item.placement is not Placement.CALM
        near = placed.near(item)
        taken = placed.taken(item, near)
        if item.high:
            address = _highest(taken, item.size_bytes, arch.ub_bytes, align)
        elif item.name in middle:
            address = _lowest(taken, item.size_bytes, align, _room_beneath(item, requests, arch))
        elif ends and item.read is None:
            address = _highest(taken, item.size_bytes, limit, align)
        elif ends or order is _Order.PLAIN or item.name in plain:
            address = _lowest(taken, item.size_bytes, align)
        else:
            address = _calmest(taken, item, placed, near, limit, arch)
        end = address + item.size_bytes
        if address < 0 or end > (arch.ub_bytes if item.high else limit):
            return Overflow(request=item)
        if item.high:
            bottom = min(bottom, address)
            if apart:
                limit = min(limit, address // arch.bank_bytes * arch.bank_bytes)
        else:
            top = max(top, end)
        placed.add(item, address)
        addresses[item.name] = address
    peak = min(top + arch.ub_bytes - bottom, arch.ub_bytes)
    return Allocation(requests=tuple(requests), addresses=addresses, peak_bytes=peak)


def _is_slot(item: Request, arch: Arch) -> bool:
    """Whether this is a small piece of one stage, perhaps loaded a stage ahead, that the matrix
    unit alone reads; or, where each has an end to itself, the vector unit."""
    by_one = (item.read is None) != (item.vector_read is None)
    return (
        by_one and (item.read is not None or item.placement is not Placement.CALM)
        and item.last - item.first <= 1
        and 4 * item.size_bytes <= arch.bank_bytes
    )


def _calmest(
    taken: list[tuple[int, int]], item: Request, placed: _Placed, near: npt.NDArray[np.int64],
    limit: int, arch: Arch,
) -> int:
    """The free place with the fewest waits for stores, then the fewest banks that two units read,
    then the fewest that Load and the vector unit write; of equal ones the lowest, or for what the
    vector unit alone reads the highest. -1 if there is none. Places begin behind others or with a
    bank, or end before others."""
    align, size = arch.ub_width_bytes, item.size_bytes
    starts = {0, *range(0, limit, arch.bank_bytes)}
    starts |= {-(-high // align) * align for _, high in taken}
    upward = item.vector_read is None or item.read is not None
    if not upward:
        starts |= {(low - size) // align * align for low, _ in taken if low >= size}
        starts.add((limit - size) // align * align)
    free = sorted(
        start for start in starts
        if 0 <= start and start + size <= limit
        and all(start + size <= low or high <= start for low, high in taken)
    )
    if not upward:
        free.reverse()
    if len(free) < 2:
        return free[0] if free else -1
    others: list[tuple[Request, int, int]] = [
        (placed.items[i], int(placed.numbers[2, i]), int(placed.numbers[3, i])) for i in near
    ]
    late = [
        (low, high) for other, low, high in others if _waits(item, other) or _waits(other, item)
    ]
    readers = [
        (low, high - low, cost) for other, low, high in others
        if (cost := _rivalry(item, other)) > 0
    ]
    writers = [(low, high - low) for other, low, high in others if _both_write(item, other)]

    def disturbance(start: int) -> tuple[int, float, float]:
        waits = sum(low < start + size and start < high for low, high in late)
        reads = sum(cost * _shared(start, size, low, own, arch) for low, own, cost in readers)
        writes = sum(_shared(start, size, low, own, arch) for low, own in writers)
        return waits, reads, writes

    best: int = min(free, key=disturbance)
    return best


def _waits(later: Request, earlier: Request) -> bool:
    """Whether `later` is written while Store may still read `earlier`, whose life is over."""
    return earlier.stored is not None and earlier.last < later.first <= earlier.stored[1]


def _rivalry(one: Request, other: Request) -> float:
    """How much it costs that two units read the two in one bank at the same time.

    The matrix unit reads in every cycle and goes before the vector unit; Store goes before both,
    but reads now and then; of two operands of the vector unit the second comes a cycle later.
    """
    if _together(one.read, other.vector_read) or _together(one.vector_read, other.read):
        return 1.0
    if any(
        _together(first, second)
        for first, second in (
            (one.stored, other.read), (one.read, other.stored),
            (one.stored, other.vector_read), (one.vector_read, other.stored),
        )
    ):
        return _STORE_RIVALRY
    return _OPERAND_RIVALRY if _together(one.vector_read, other.vector_read) else 0.0


def _both_write(one: Request, other: Request) -> bool:
    """Whether Load writes one of the two while the vector unit writes the other."""
    return _together(one.loaded, other.written) or _together(one.written, other.loaded)


def _together(one: Times | None, other: Times | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _shared(address: int, size: int, at: int, other_size: int, arch: Arch) -> float:
    """The expected share of accesses that meet in a bank."""
    common = _common_banks(address, size, at, other_size, arch)
    if common == 0:
        return 0.0
    own = (address + size - 1) // arch.bank_bytes - address // arch.bank_bytes + 1
    other = (at + other_size - 1) // arch.bank_bytes - at // arch.bank_bytes + 1
    return common / (own * other)


def _common_banks(address: int, size: int, at: int, other_size: int, arch: Arch) -> int:
    """Number of banks in which both lie: one from `address` on, the other from `at` on."""
    first = max(address, at) // arch.bank_bytes
    end = min(address + size, at + other_size)
    return max(0, (end - 1) // arch.bank_bytes - first + 1)


def _room_beneath(item: Request, requests: Sequence[Request], arch: Arch) -> int:
    """The most that smaller pieces which the matrix unit reads take together while `item` lives."""
    total = np.zeros(item.last - item.first + 2, np.int64)
    for other in requests:
        if other.read is None or other.size_bytes >= arch.bank_bytes:
            continue
        first, last = max(other.first, item.first), min(other.last, item.last)
        if first <= last:
            total[first - item.first] += other.size_bytes
            total[last - item.first + 1] -= other.size_bytes
    return -(-int(np.cumsum(total).max()) // arch.ub_width_bytes) * arch.ub_width_bytes


def _lowest(taken: list[tuple[int, int]], size: int, align: int, least: int = 0) -> int:
    address = least
    for low, high in taken:
        if address + size <= low:
            break
        address = max(address, -(-high // align) * align)
    return address


def _highest(taken: list[tuple[int, int]], size: int, end: int, align: int) -> int:
    address = (end - size) // align * align
    for low, high in sorted(taken, key=lambda pair: -pair[1]):
        if high > address and low < address + size:
            address = (low - size) // align * align
    return address
