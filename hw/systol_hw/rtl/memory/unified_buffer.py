"""The unified buffer: banks of block RAM, byte-addressed, with ranked ports (docs/timing.md, 4).

A bank is two memories of W-byte rows, one of its even rows and one of its odd rows, so that W
bytes from any address on come out of both in one cycle, the same address or neighbours in each.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.rtl.contract.interfaces import UbReadSignature, UbWriteSignature
from systol_hw.rtl.parts.block_ram import BlockRam
from systol_hw.rtl.parts.rotate import rotate_left, rotate_right

__all__ = ["READ_RANKS", "WRITE_RANKS", "UnifiedBuffer"]

READ_RANKS = ("store", "weights", "matrix", "vector_a", "vector_b")
"""Read ports, highest rank first (4.2)."""
WRITE_RANKS = ("load", "vector")
"""Write ports, highest rank first (4.2)."""


class UnifiedBuffer(Component):
    """All banks with their rotators, and the arbitration between the ports.

    Parameters
    ----------
    arch : Arch
    port_bytes : Mapping[str, int] or None
        Bytes that a port's data path carries, by the names of `READ_RANKS` and of `WRITE_RANKS`
        (`"load"` and `"vector"` for the write ports); what is missing is what the unit needs at
        most. Longer accesses are not allowed there.

    Members
    -------
    store, weights, matrix, vector_a, vector_b : In(UbReadSignature)
    load_write, vector_write : In(UbWriteSignature)
    """

    def __init__(self, arch: Arch, port_bytes: Mapping[str, int] | None = None):
        self.arch = arch
        width = arch.ub_width_bytes
        widest = max(arch.weight_port.width_bytes, arch.host_port.width_bytes)
        self.port_bytes = {
            "store": widest,
            "weights": max(arch.rows, arch.columns),
            "matrix": arch.rows,
            "vector_a": arch.columns,
            "vector_b": width,
            "load": widest,
            "vector": arch.columns,
        } | dict(port_bytes or {})
        super().__init__(
            {name: In(UbReadSignature(arch)) for name in READ_RANKS}
            | {f"{name}_write": In(UbWriteSignature(arch)) for name in WRITE_RANKS}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        reads = [_Place(m, getattr(self, name), name, arch) for name in READ_RANKS]
        writes = [_Place(m, getattr(self, f"{name}_write"), name, arch) for name in WRITE_RANKS]
        _arbitrate(m, reads)
        _arbitrate(m, writes)
        write_bytes, write_strobes = [], []
        for name, place in zip(WRITE_RANKS, writes, strict=True):
            lanes, strobes = self._write_lanes(m, name, place)
            write_bytes.append(lanes)
            write_strobes.append(strobes)

        depth = arch.bank_bytes // (2 * arch.ub_width_bytes)
        banks = []
        for bank in range(arch.ub_banks):
            # The data are the same for the even and the odd memory of a bank, only strobes differ.
            data = Signal(8 * arch.ub_width_bytes, name=f"write_data_{bank}")
            m.d.comb += data.eq(_chosen([p.takes(bank) for p in writes], write_bytes))
            rows = []
            for parity, name in enumerate(("even", "odd")):
                memory = BlockRam(
                    width=8 * arch.ub_width_bytes, depth=depth, granularity=8, read_enables=True
                )
                m.submodules[f"bank_{bank}_{name}"] = memory
                read, write = memory.read, memory.write
                here = [p.takes_row(bank, parity) for p in reads]
                m.d.comb += read.addr.eq(_chosen(here, [p.index[parity] for p in reads]))
                here = [p.takes_row(bank, parity) for p in writes]
                m.d.comb += [
                    write.addr.eq(_chosen(here, [p.index[parity] for p in writes])),
                    write.data.eq(data),
                    write.en.eq(_chosen(here, [s[parity] for s in write_strobes])),
                ]
                rows.append(read)
            banks.append(self._read_bank(m, bank, reads, rows))
        for number, (name, place) in enumerate(zip(READ_RANKS, reads, strict=True)):
            shares = [
                Mux(takes[number], word[: 8 * self.port_bytes[name]], 0) for takes, word in banks
            ]
            m.d.comb += place.port.data.eq(reduce(or_, shares))
        return m

    def _write_lanes(self, m: Module, name: str, place: "_Place") -> tuple[Any, list[Signal]]:
        """Data by byte lane, and the lanes written in the even and in the odd row."""
        width = self.arch.ub_width_bytes
        port = place.port
        # Rotating within the port's own width and repeating puts every byte where it belongs.
        period = 1 << ceil_log2(self.port_bytes[name])
        rotated = rotate_left(m, port.data[: 8 * period], place.offset, f"{name}_turned")
        end = Signal(bits_for(2 * width), name=f"{name}_end")
        m.d.comb += end.eq(place.offset + port.length)
        below_offset = _thermometer(place.offset, width)
        below_end = _thermometer(end, 2 * width)
        first = Signal(width, name=f"{name}_first_row")
        second = Signal(width, name=f"{name}_second_row")
        strobes = [Signal(width, name=f"{name}_strobe_{parity}") for parity in range(2)]
        m.d.comb += [
            first.eq(below_end[:width] & ~below_offset),
            second.eq(below_end[width:]),
            strobes[0].eq(Mux(place.odd, second, first)),
            strobes[1].eq(Mux(place.odd, first, second)),
        ]
        return rotated.replicate(width // period), strobes

    def _read_bank(
        self, m: Module, bank: int, reads: list["_Place"], rows: list[Any]
    ) -> tuple[Signal, Any]:
        """What a bank gives in the cycle after it was read: for which ports, and its bytes, where
        the port wants them, zero where they come from the next bank.

        A bank serves one port at a time, so the rotator is the bank's and not the ports'.
        """
        width = self.arch.ub_width_bytes
        takes = Signal(len(reads), name=f"takes_{bank}")
        m.d.comb += takes.eq(Cat(place.takes(bank) for place in reads))
        offset = Signal(ceil_log2(width), name=f"offset_{bank}")
        odd_first = Signal(name=f"odd_first_{bank}")
        m.d.comb += [
            offset.eq(_chosen(takes, [place.offset for place in reads])),
            odd_first.eq(_chosen(takes, [place.odd for place in reads])),
        ]
        # A lane before the first byte's shows the later one of the two rows.
        from_odd = Signal(width, name=f"from_odd_{bank}")
        m.d.comb += from_odd.eq(_thermometer(offset, width) ^ odd_first.replicate(width))
        takes_read = Signal.like(takes, name=f"takes_read_{bank}")
        offset_read = Signal.like(offset, name=f"offset_read_{bank}")
        m.d.sync += [takes_read.eq(takes), offset_read.eq(offset)]
        merged = []
        for parity, lanes in enumerate((~from_odd, from_odd)):
            here = Cat(place.takes_row(bank, parity) for place in reads).any()
            m.d.comb += rows[parity].en.eq(Mux(here, lanes, 0))
            merged.append(rows[parity].data)
        word = Signal(8 * width, name=f"word_{bank}")
        m.d.comb += word.eq(merged[0] | merged[1])
        return takes_read, rotate_right(m, word, offset_read, f"turned_{bank}")


class _Place:
    """Where an access falls.

    `bank` and `index` of the even and the odd row that it may touch, its `offset` in the first
    row, whether that one is `odd`; the banks of its first and last bytes are claimed.
    """

    def __init__(self, m: Module, port: Any, name: str, arch: Arch):
        width, banks = arch.ub_width_bytes, arch.ub_banks
        self.port = port
        lane_bits = ceil_log2(width)
        pair_bits = ceil_log2(arch.bank_bytes // (2 * width))
        bank_bits = ceil_log2(banks)
        self.offset = port.address[:lane_bits]
        self.odd = port.address[lane_bits]
        row = port.address[lane_bits:]
        # Row r and the next one: the odd row is pair r // 2's, the even one pair (r + 1) // 2's.
        odd_pair = Signal(pair_bits + bank_bits, name=f"{name}_odd_pair")
        even_pair = Signal(pair_bits + bank_bits, name=f"{name}_even_pair")
        m.d.comb += [odd_pair.eq(row >> 1), even_pair.eq((row >> 1) + self.odd)]
        self.index = (even_pair[:pair_bits], odd_pair[:pair_bits])
        self.bank = (even_pair[pair_bits:], odd_pair[pair_bits:])

        straddles = Signal(name=f"{name}_straddles")
        self.claims = Signal(banks, name=f"{name}_claims")
        last_row = Signal(name=f"{name}_last_row")
        # Only an access from a bank's last row, an odd one, can reach the next bank: its even
        # row then stands there.
        m.d.comb += [
            straddles.eq((self.offset + port.length) > width),
            last_row.eq(self.odd & odd_pair[:pair_bits].all()),
        ]
        first = odd_pair[pair_bits:]
        for bank in range(banks):
            beyond = straddles & last_row & (first == bank - 1) if bank else Const(0, 1)
            m.d.comb += self.claims[bank].eq((first == bank) | beyond)

    def takes(self, bank: int) -> Any:
        """Whether the access is granted and claims `bank`."""
        return self.port.grant & self.claims[bank]

    def takes_row(self, bank: int, parity: int) -> Any:
        """Whether the access is granted and its row of `parity` is in `bank`, claimed by it."""
        return self.takes(bank) & (self.bank[parity] == bank)


def _arbitrate(m: Module, places: list[_Place]) -> None:
    """Drives the grants of ports in rank order: none of a port's banks is taken before it."""
    taken: Any = Const(0, len(places[0].claims))
    for place in places:
        m.d.comb += place.port.grant.eq(place.port.request & ~(place.claims & taken).any())
        taken = taken | (place.claims & place.port.grant.replicate(len(place.claims)))


def _chosen(conditions: Sequence[Any], values: Sequence[Any]) -> Any:
    """The value whose condition holds; at most one does."""
    pairs = zip(conditions, values, strict=True)
    return reduce(or_, (Mux(condition, value, 0) for condition, value in pairs))


def _thermometer(value: Any, count: int) -> Any:
    """Bit i, for i < `count`, says whether i < `value`."""
    return Cat(value > i for i in range(count))
