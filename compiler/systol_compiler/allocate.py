"""Places buffers in the unified buffer by liveness: who is alive together never overlaps."""

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


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Addresses by request name; `peak_bytes` is what low and high places take together."""

    requests: tuple[Request, ...]
    addresses: Mapping[str, int]
    peak_bytes: int

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
    """Addresses for all of `requests`, or None if this greedy placement does not fit.

    With `apart`, no other request shares a bank of the unified buffer with a high one.

    High requests choose first, then the largest; each takes the lowest (or highest) aligned address
    that is free throughout its life.
    """
    align = arch.ub_width_bytes
    placed: list[tuple[int, int, Request]] = []
    addresses: dict[str, int] = {}
    limit = arch.ub_bytes
    order = sorted(requests, key=lambda r: (not r.high, -r.size_bytes, r.first, r.name))
    for item in order:
        taken = sorted(
            (low, high)
            for low, high, other in placed
            if item.first <= other.last and other.first <= item.last
        )
        if item.high:
            address = _highest(taken, item.size_bytes, arch.ub_bytes, align)
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
