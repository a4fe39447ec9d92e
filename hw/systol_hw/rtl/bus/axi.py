"""AXI4 and AXI4-Lite: the signals, and a master for a memory port of the machine.

Ref: AMBA AXI Protocol Specification, ARM IHI 0022, chapters A2, A3 (AXI4) and B1 (AXI4-Lite).
"""

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out, Signature
from amaranth.utils import exact_log2

from systol_hw.rtl.contract.interfaces import MemorySignature
from systol_hw.rtl.parts.head_queue import HeadQueue

__all__ = ["AXI_ADDRESS_BITS", "AXI_OKAY", "AXI_SLVERR", "AxiLiteSignature", "AxiMaster",
           "AxiSignature"]  # fmt: skip

AXI_ADDRESS_BITS = 64
AXI_OKAY = 0
AXI_SLVERR = 2
_INCR = 1
_BUFFERABLE = 0b0011
_PAGE_BITS = 12


class AxiSignature(Signature):
    """An AXI4 master of `width_bytes` bytes a beat, with one id of one bit."""

    def __init__(self, *, width_bytes: int):
        def request(channel: str) -> dict[str, Any]:
            return {
                f"{channel}id": Out(1),
                f"{channel}addr": Out(AXI_ADDRESS_BITS),
                f"{channel}len": Out(8),
                f"{channel}size": Out(3),
                f"{channel}burst": Out(2),
                f"{channel}cache": Out(4),
                f"{channel}prot": Out(3),
                f"{channel}valid": Out(1),
                f"{channel}ready": In(1),
            }

        super().__init__(
            request("aw")
            | {
                "wdata": Out(8 * width_bytes),
                "wstrb": Out(width_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
            | request("ar")
            | {
                "rid": In(1),
                "rdata": In(8 * width_bytes),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiLiteSignature(Signature):
    """An AXI4-Lite master of 32-bit words; a slave has it flipped."""

    def __init__(self, *, address_bits: int):
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiMaster(Component):
    """Turns the requests of a memory port into AXI4 transfers of one beat each.

    AXI answers reads in order and writes in order, but neither in the order of the other; the port
    wants its responses in the order of its requests, so that a queue remembers which comes next.
    Nothing else has to be kept in order: the machine starts no access that depends on another
    before that one was answered.

    Parameters
    ----------
    width_bytes : int
    memories : int
        Memories behind the port; `request_window` chooses.
    outstanding : int
        Requests accepted and not answered, at most. What the pacer can hide of the memory's latency
        is bounded by it.

    Members
    -------
    native : In(MemorySignature)
    axi : Out(AxiSignature)
    bases : In
        Address of each memory; the low 12 bits are taken as 0. They hold still during a run.
    error : Out(1)
        A response that ends in this cycle says that its beat failed.
    """

    def __init__(self, *, width_bytes: int, memories: int, outstanding: int):
        self.width_bytes = width_bytes
        self.memories = memories
        self.outstanding = outstanding
        super().__init__(
            {
                "native": In(MemorySignature(width_bytes=width_bytes)),
                "axi": Out(AxiSignature(width_bytes=width_bytes)),
                "bases": In(data.ArrayLayout(AXI_ADDRESS_BITS, memories)),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        native, axi = self.native, self.axi
        m.submodules.order = order = HeadQueue(1, self.outstanding)
        pages = Array(self.bases[i][_PAGE_BITS:] for i in range(self.memories))
        page = pages[native.request_window] if self.memories > 1 else pages[0]
        address = Signal(AXI_ADDRESS_BITS)
        m.d.comb += address.eq((page << _PAGE_BITS) + native.request_address)
        for channel in ("aw", "ar"):
            m.d.comb += [
                getattr(axi, f"{channel}addr").eq(address),
                getattr(axi, f"{channel}size").eq(exact_log2(self.width_bytes)),
                getattr(axi, f"{channel}burst").eq(_INCR),
                getattr(axi, f"{channel}cache").eq(_BUFFERABLE),
            ]
        m.d.comb += [
            axi.wdata.eq(native.request_data),
            axi.wstrb.eq(native.request_strobe),
            axi.wlast.eq(1),
        ]

        # `room` stays until something is accepted, so no `valid` is taken back.
        room = Signal()
        addressed, written = Signal(), Signal()  # this write's address, its data were taken before
        write = native.request_valid & native.request_write & room
        m.d.comb += [
            room.eq(order.level != self.outstanding),
            axi.arvalid.eq(native.request_valid & ~native.request_write & room),
            axi.awvalid.eq(write & ~addressed),
            axi.wvalid.eq(write & ~written),
            native.request_ready.eq(
                room
                & Mux(
                    native.request_write,
                    (addressed | axi.awready) & (written | axi.wready),
                    axi.arready,
                )
            ),
            order.push.eq(native.request_valid & native.request_ready),
            order.word.eq(native.request_write),
        ]
        with m.If(order.push):
            m.d.sync += [addressed.eq(0), written.eq(0)]
        with m.Else():
            m.d.sync += [
                addressed.eq(addressed | (axi.awvalid & axi.awready)),
                written.eq(written | (axi.wvalid & axi.wready)),
            ]

        expected = order.level != 0
        m.d.comb += [
            axi.bready.eq(expected & order.head & native.response_ready),
            axi.rready.eq(expected & ~order.head & native.response_ready),
            native.response_valid.eq(expected & Mux(order.head, axi.bvalid, axi.rvalid)),
            native.response_data.eq(axi.rdata),
            order.pop.eq(native.response_valid & native.response_ready),
            self.error.eq(order.pop & Mux(order.head, axi.bresp[1], axi.rresp[1])),
        ]
        return m
