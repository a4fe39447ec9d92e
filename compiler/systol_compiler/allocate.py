"""Places buffers in the unified buffer by liveness: who is alive together never overlaps.

Among the free places, the one is best that keeps units out of each other's way: Store goes before
the matrix unit in a bank that both read, Load before the vector unit in one that both write, and
what is written where Store still reads has to wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from systol_hw.arch import Arch


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
    read: tuple[int, int] | None = None
    """First and last time at which the matrix or the vector unit reads it."""
    stored: tuple[int, int] | None = None
    """First and last time at which Store reads it; the last may be the one behind its life."""
    loaded: tuple[int, int] | None = None
    """First and last time at which Load writes it."""
    written: tuple[int, int] | None = None
    """First and last time at which the vector unit writes it."""


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
            if item.read is not None:
                for time in range(item.read[0], item.read[1] + 1):
                    read.setdefault(time, []).append(item)
        at = self.addresses
        return sum(
            _common_banks(at[item.name], item, at[other.name], other, arch)
            for item in self.requests if item.stored is not None
            for time in range(item.stored[0], item.stored[1] + 1)
            for other in read.get(time, ())
        )

    def verify(self, arch: Arch) -> None:
        """Check that all lies in the buffer and that nothing alive together overlaps."""
        for index, one in enumerate(self.requests):
            low = self.addresses[one.name]
            assert 0 <= low and low + one.size_bytes <= arch.ub_bytes
            for other in self.requests[:index]:
                together = one.first <= other.last and other.first <= one.last
                at = self.addresses[other.name]
                apart = low + one.size_bytes <= at or at + other.size_bytes <= low
                assert apart or not together, (one.name, other.name)

    def __str__(self) -> str:
        lines = [f"unified buffer, {self.peak_bytes} bytes used {{"]
        for item in sorted(self.requests, key=lambda r: (r.first, self.addresses[r.name])):
            low = self.addresses[item.name]
            lines.append(
                f"  {low:#08x}..{low + item.size_bytes - 1:#08x} %{item.name} "
                f"times {item.first}..{item.last}"
            )
        return "\n".join([*lines, "}"])


def allocate(
    requests: tuple[Request, ...], arch: Arch, *, apart: bool = False
) -> Allocation | None:
    """Addresses for all of `requests`, or None if neither greedy placement fits.

    With `apart`, no other request shares a bank of the unified buffer with a high one.

    High requests choose first and take the highest aligned address that is free throughout their
    life. Then, in the first attempt, the largest (in eighths of a bank, so that time orders about
    equal ones) take the free place where units disturb each other least, the lowest of equals. If
    that does not fit, the largest take the lowest free address.
    """
    return _place(requests, arch, apart, calm=True) or _place(requests, arch, apart, calm=False)


def _place(
    requests: tuple[Request, ...], arch: Arch, apart: bool, *, calm: bool
) -> Allocation | None:
    align = arch.ub_width_bytes
    placed: list[tuple[int, int, Request]] = []
    addresses: dict[str, int] = {}
    limit = arch.ub_bytes
    if calm:
        eighth = max(1, arch.bank_bytes // 8)
        # What is stored chooses before what is loaded at the same time, which can wait for a store.
        order = sorted(
            requests,
            key=lambda r: (not r.high, -r.size_bytes // eighth, r.first, r.stored is None),
        )
    else:
        order = sorted(requests, key=lambda r: (not r.high, -r.size_bytes, r.first, r.name))
    for item in order:
        near = [
            entry for entry in placed
            if entry[2].first - 1 <= item.last and item.first <= entry[2].last + 1
        ]
        taken = sorted(
            (low, high)
            for low, high, other in near
            if item.first <= other.last and other.first <= item.last
        )
        if item.high:
            address = _highest(taken, item.size_bytes, arch.ub_bytes, align)
        elif calm:
            address = _calmest(taken, item, near, limit, arch)
        else:
            address = _lowest(taken, item.size_bytes, align)
        end = address + item.size_bytes
        if address < 0 or end > (arch.ub_bytes if item.high else limit):
            return None
        if apart and item.high:
            limit = min(limit, address // arch.bank_bytes * arch.bank_bytes)
        placed.append((address, end, item))
        addresses[item.name] = address
    top = max((end for _, end, other in placed if not other.high), default=0)
    bottom = min((low for low, _, other in placed if other.high), default=arch.ub_bytes)
    peak = min(top + arch.ub_bytes - bottom, arch.ub_bytes)
    return Allocation(requests=requests, addresses=addresses, peak_bytes=peak)


def _calmest(
    taken: list[tuple[int, int]], item: Request, near: list[tuple[int, int, Request]],
    limit: int, arch: Arch,
) -> int:
    """The free place with the fewest waits for stores, then the fewest banks that Store and others
    read, then the fewest that Load and the vector unit write, then the lowest; -1 if there is none.
    Places begin behind others, or with a bank."""
    align, size = arch.ub_width_bytes, item.size_bytes
    starts = {0, *range(0, limit, arch.bank_bytes)}
    starts |= {-(-high // align) * align for _, high in taken}
    free = sorted(
        start for start in starts
        if start + size <= limit
        and all(start + size <= low or high <= start for low, high in taken)
    )
    late = [
        (low, high) for low, high, other in near if _waits(item, other) or _waits(other, item)
    ]
    readers = [(low, other) for low, _, other in near if _both_read(item, other)]
    writers = [(low, other) for low, _, other in near if _both_write(item, other)]

    def disturbance(start: int) -> tuple[int, int, int]:
        waits = sum(low < start + size and start < high for low, high in late)
        reads = sum(_common_banks(start, item, low, other, arch) for low, other in readers)
        writes = sum(_common_banks(start, item, low, other, arch) for low, other in writers)
        return waits, reads, writes

    return min(free, key=disturbance, default=-1)


def _waits(later: Request, earlier: Request) -> bool:
    """Whether `later` is written while Store may still read `earlier`, whose life is over."""
    return earlier.stored is not None and earlier.last < later.first <= earlier.stored[1]


def _both_read(one: Request, other: Request) -> bool:
    """Whether Store reads one of the two while another unit reads the other."""
    return _together(one.stored, other.read) or _together(one.read, other.stored)


def _both_write(one: Request, other: Request) -> bool:
    """Whether Load writes one of the two while the vector unit writes the other."""
    return _together(one.loaded, other.written) or _together(one.written, other.loaded)


def _together(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _common_banks(address: int, item: Request, at: int, other: Request, arch: Arch) -> int:
    """Number of banks in which both lie, if `item` begins at `address` and `other` at `at`."""
    first = max(address, at) // arch.bank_bytes
    end = min(address + item.size_bytes, at + other.size_bytes)
    return max(0, (end - 1) // arch.bank_bytes - first + 1)


def _lowest(taken: list[tuple[int, int]], size: int, align: int) -> int:
    address = 0
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
