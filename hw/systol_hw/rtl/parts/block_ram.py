"""What the machine's memories promise their synthesis tool and ask of it, and the large ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, Signature
from amaranth.utils import ceil_log2

from systol_hw.rtl.parts.convert_once import ModuleLibrary

__all__ = ["BLOCK_RAM", "NO_COLLISIONS", "BlockRam"]

NO_COLLISIONS: Mapping[str, int] = MappingProxyType({"no_rw_check": 1})
"""Attributes of a memory in which nobody uses a byte read in the cycle in which it is written.

Without them a synthesis tool must add registers and comparators that give such a read the old
value, as simulation does: block RAM itself leaves it open. What valid programs read is never being
written (docs/timing.md, 9.2), and queues do not show an item before the cycle after its write.
"""

BLOCK_RAM: Mapping[str, int | str] = MappingProxyType({**NO_COLLISIONS, "ram_style": "block"})
"""Attributes of a buffer whose memories are small one by one: block RAM all the same, since many of
them in logic would cost more than the part has to spare."""


class BlockRam(Component):
    """A memory of one read port and one write port, for the buffers that hold megabytes.

    It is Amaranth's `Memory`, except in a conversion into a `ModuleLibrary`: Amaranth converts the
    zeros that a memory begins with bit by bit, minutes of them at 24 MiB, and has no loops, so that
    there the module is written out here.

    Parameters
    ----------
    width : int
        Bits of a row.
    depth : int
        Rows.
    granularity : int or None
        Bits that one enable covers; None for the whole row.
    read_enables : bool
        Whether reads have enables, too.

    Members
    -------
    read.addr : In, read.en : In, read.data : Out
        The row at `addr`, one cycle later, with zeros where it is not enabled; the old row if it is
        written in this cycle. `en` is there with `read_enables`.
    write.addr, write.data, write.en : In
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        granularity: int | None = None,
        read_enables: bool = False,
    ):
        self.width = width
        self.depth = depth
        self.granularity = width if granularity is None else granularity
        self.read_enables = read_enables
        assert width % self.granularity == 0, "write enables cover the row evenly"
        address_bits, enables = ceil_log2(depth), width // self.granularity
        read = {"addr": Out(address_bits), "data": In(width)}
        if read_enables:
            read["en"] = Out(enables)
        write = {"addr": Out(address_bits), "en": Out(enables), "data": Out(width)}
        super().__init__({"read": In(Signature(read)), "write": In(Signature(write))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enables = self.read.en if self.read_enables else None
        if isinstance(platform, ModuleLibrary):
            name = f"systol_BlockRam_{self.width}_{self.depth}_{self.granularity}"
            name += "_enabled" if self.read_enables else ""
            platform.verilog[name] = self._verilog(name)
            m.submodules.instance = Instance(
                name,
                i_clk=ClockSignal(),
                i_read_addr=self.read.addr,
                i_read_en=Const(1) if enables is None else enables,
                o_read_data=self.read.data,
                i_write_addr=self.write.addr,
                i_write_data=self.write.data,
                i_write_en=self.write.en,
            )
            return m
        m.submodules.memory = memory = Memory(
            shape=self.width, depth=self.depth, init=[], attrs=NO_COLLISIONS
        )
        read = memory.read_port()
        write = memory.write_port(granularity=self.granularity)
        data = read.data
        if enables is not None:
            shown = Signal.like(enables)
            m.d.sync += shown.eq(enables)
            data = data & Cat(enable.replicate(self.granularity) for enable in shown)
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(self.read.addr),
            self.read.data.eq(data),
            write.addr.eq(self.write.addr),
            write.data.eq(self.write.data),
            write.en.eq(self.write.en),
        ]
        return m

    def _verilog(self, name: str) -> str:
        top, address_top = self.width - 1, ceil_log2(self.depth) - 1
        size, enables = self.granularity, self.width // self.granularity
        read_enables = enables if self.read_enables else 1
        read = "read_data <= rows[read_addr];"
        if self.read_enables:
            # A blocking assignment to a variable, bit by bit, and one to the register.
            read = f"""shown = 0;
    if (|read_en)
      for (i = 0; i < {enables}; i = i + 1)
        if (read_en[i]) shown[{size} * i +: {size}] = rows[read_addr][{size} * i +: {size}];
    read_data <= shown;"""
        return f"""\
module {name}(
  input clk,
  input [{address_top}:0] read_addr,
  input [{read_enables - 1}:0] read_en,
  output reg [{top}:0] read_data,
  input [{address_top}:0] write_addr,
  input [{top}:0] write_data,
  input [{enables - 1}:0] write_en
);
  reg [{top}:0] rows [0:{self.depth - 1}];
  reg [{top}:0] shown;
  reg [{top}:0] written;
  integer i;
  always @(posedge clk) begin
    {read}
    if (|write_en) begin
      written = rows[write_addr];
      for (i = 0; i < {enables}; i = i + 1)
        if (write_en[i]) written[{size} * i +: {size}] = write_data[{size} * i +: {size}];
      rows[write_addr] <= written;
    end
  end
endmodule
"""
