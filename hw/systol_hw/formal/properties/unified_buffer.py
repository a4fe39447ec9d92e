"""The unified buffer: arbitration by rank and bank, and bytes that keep their values.

Banks are worked out here from an access's first and last byte by division, not from the rows.
"""

import dataclasses
from functools import partial
from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Const, Module, Signal
from amaranth.utils import bits_for

from systol_hw.arch import PRESETS, Arch
from systol_hw.formal.proof import Insides, Mutant, Proof

__all__ = ["PROOFS"]

_THREE_BANKS = Arch(
    name="three-banks", rows=4, columns=4, ub_bytes=384, ub_banks=3, accumulator_rows=16,
    weight_fifo_tiles=2, weight_port=PRESETS["nano"].weight_port,
    host_port=PRESETS["nano"].host_port, vector_lanes=4,
)  # fmt: skip
_TWO_BANKS = dataclasses.replace(_THREE_BANKS, name="two-banks", ub_bytes=64, ub_banks=2)
_MACHINES = {"nano": PRESETS["nano"], "three-banks": _THREE_BANKS}


def _ports(m: Module, dut: Any, names: Any, suffix: str = "", active: Any = None) -> list[Any]:
    """The ports called `names`, with arbitrary requests that the units may make; of ports that
    are not `active`, if some are named, none."""
    ports = [getattr(dut, f"{name}{suffix}") for name in names]
    for name, port in zip(names, ports, strict=True):
        m.d.comb += [
            port.request.eq(AnySeq(1) if active is None or name in active else 0),
            port.address.eq(AnySeq(len(port.address))),
            port.length.eq(AnySeq(len(port.length))),
            Assume((port.length >= 1) & (port.length <= dut.port_bytes[name])),
            Assume(port.address + port.length <= dut.arch.ub_bytes),
        ]
    return ports


def _claims(port: Any, arch: Arch) -> Any:
    """One bit for each bank: the access's first or last byte is there."""
    last = port.address + port.length - 1
    return Cat(
        (port.address // arch.bank_bytes == bank) | (last // arch.bank_bytes == bank)
        for bank in range(arch.ub_banks)
    )


def _arbitration(source: Any, *, arch: Arch) -> Module:
    m = Module()
    m.submodules.buffer = dut = source.UnifiedBuffer(arch)
    for ranks, suffix in ((source.READ_RANKS, ""), (source.WRITE_RANKS, "_write")):
        taken: Any = Const(0, arch.ub_banks)
        for rank, port in enumerate(_ports(m, dut, ranks, suffix)):
            claims = Signal(arch.ub_banks, name=f"{ranks[rank]}{suffix}_banks")
            m.d.comb += [
                claims.eq(_claims(port, arch)),
                Assert(~port.grant | port.request),
                # Refused exactly if a granted port of higher rank claims one of its banks.
                Assert(~port.request | (port.grant == ~(claims & taken).any())),
            ]
            if rank == 0:
                m.d.comb += Assert(port.grant == port.request)
            taken = taken | (claims & port.grant.replicate(arch.ub_banks))
    return m


def _bytes(source: Any, *, arch: Arch) -> Module:
    m = Module()
    dut = source.UnifiedBuffer(arch)
    inside = Insides(dut)
    width, banks = arch.ub_width_bytes, arch.ub_banks
    place = Signal(bits_for(arch.ub_bytes - 1))
    m.d.comb += [place.eq(AnyConst(len(place))), Assume(place < arch.ub_bytes)]
    # The byte where it lies: its bank, its row's parity, the pair of rows, the lane.
    stored = []
    for bank in range(banks):
        for parity, name in enumerate(("even", "odd")):
            memory = Insides(inside.submodule(f"bank_{bank}_{name}")).submodule("memory")
            probe = memory.read_port(domain="comb")
            m.d.comb += probe.addr.eq(place % arch.bank_bytes // (2 * width))
            here = (place // arch.bank_bytes == bank) & (place // width % 2 == parity)
            stored.append(probe.data.word_select(place % width, 8) & here.replicate(8))
    m.submodules.buffer = inside.fragment
    reads = _ports(m, dut, source.READ_RANKS, active=("matrix",))
    writes = _ports(m, dut, source.WRITE_RANKS, "_write", active=("vector",))

    value = Signal(8)
    m.d.comb += Assert(value == _any_of(stored))
    written: list[Any] = []
    for port in writes:
        m.d.comb += port.data.eq(AnySeq(len(port.data)))
        covers = Signal(name=f"covers_{len(written)}")
        m.d.comb += covers.eq(port.grant & _covers(port, place))
        with m.If(covers):
            m.d.sync += value.eq(port.data.word_select((place - port.address)[:16], 8))
        written.append(covers)
    for number, port in enumerate(reads):
        covers = Signal(name=f"read_covers_{number}")
        before = Signal(name=f"read_before_{number}")
        lane = Signal.like(port.length, name=f"lane_{number}")
        expected = Signal(8, name=f"expected_{number}")
        # No valid program reads a byte as it is written (9.2).
        m.d.comb += covers.eq(port.grant & _covers(port, place) & ~Cat(written).any())
        m.d.sync += [before.eq(covers), lane.eq(place - port.address), expected.eq(value)]
        m.d.comb += Assert(~before | (port.data.word_select(lane, 8) == expected))
    return m


def _covers(port: Any, place: Any) -> Any:
    return (place >= port.address) & (place < port.address + port.length)


def _any_of(values: list[Any]) -> Any:
    total: Any = Const(0, 8)
    for value in values:
        total = total | value
    return total


PROOFS: tuple[Proof, ...] = (
    *(
        Proof(
            name=f"buffer-ranks-{name}",
            source="systol_hw.rtl.memory.unified_buffer",
            states="among reads, and among writes: a grant goes to a requester, is refused exactly "
            "if a granted port of higher rank claims one of its banks, and never to the highest "
            f"rank in vain; on {name}",
            build=partial(_arbitration, arch=arch),
            depth=1,
            mutants=(
                Mutant(
                    old="port.request & ~(place.claims & taken).any()",
                    new="port.request & ~(place.claims & taken).all()",
                ),
                Mutant(old="(self.offset + port.length) > width",
                       new="(self.offset + port.length) >= width"),
                Mutant(old="self.odd & odd_pair[:pair_bits].all()",
                       new="odd_pair[:pair_bits].all()"),
            ),
        )
        for name, arch in _MACHINES.items()
    ),
    Proof(
        name="buffer-bytes",
        source="systol_hw.rtl.memory.unified_buffer",
        states="an arbitrary byte read by the matrix unit is the byte last written there by the "
        "vector unit, whatever the addresses and lengths of the accesses; on two-banks",
        build=partial(_bytes, arch=_TWO_BANKS),
        depth=3,
        mutants=(
            Mutant(old="(row >> 1) + self.odd", new="row >> 1"),
            Mutant(old="below_end[:width] & ~below_offset", new="below_end[:width]"),
        ),
    ),
)
"""Proofs about the unified buffer."""
