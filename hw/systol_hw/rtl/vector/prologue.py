"""The reads that come before a channel group's rows: parameters, or a table before the first.

Ref: docs/timing.md, 7.1.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa.choices import Reduce, TableWidth
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.vector.mode import is_operation
from systol_hw.rtl.vector.parameters import read_index_bits
from systol_hw.rtl.vector.table_lookup import TABLE_READ_BYTES, TABLE_READS

__all__ = ["VectorPrologue"]

_NARROW_TABLE_READS = TableWidth.BYTES.table_bytes // TABLE_READ_BYTES
_LAST_KNOT_BYTES = TableWidth.KNOTS.table_bytes % TABLE_READ_BYTES


class VectorPrologue(Component):
    """The current read of a group's prologue.

    Members
    -------
    start, word
        An instruction starts; `word` is it then, and the active instruction at other times.
    group, channels
        A group of so many live channels begins in the next cycle; also with `start`.
    advance
        Go to the next read; only while `reading`.
    reading
        There is a read to be performed.
    index, address, length
        Which of the group's, and its bytes.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "group": In(1),
                "channels": In(bits_for(arch.columns)),
                "advance": In(1),
                "reading": Out(1),
                "index": Out(read_index_bits(arch)),
                "address": Out(ADDRESS_BITS),
                "length": Out(bits_for(arch.ub_width_bytes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        fields, table = fields_of(self.word, "requantize"), fields_of(self.word, "table")
        is_table = is_operation(fields, "table")
        mean = fields.reduce == Reduce.MEAN
        units_per_read = arch.ub_width_bytes // PARAMETER_BYTES

        # Parameters and the 8 bytes of a table read are alike units of 8 bytes; the last table
        # read of knots is one of which only two bytes are read.
        left = Signal(bits_for(max(arch.columns, TABLE_READS)))
        group_address, next_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        ends = Signal()
        m.d.comb += [
            ends.eq(left <= Mux(is_table, 1, units_per_read)),
            self.length.eq(Mux(ends, PARAMETER_BYTES * left, arch.ub_width_bytes)),
        ]
        with m.If(is_table):
            m.d.comb += self.length.eq(
                Mux(ends & table.table_width, _LAST_KNOT_BYTES, PARAMETER_BYTES)
            )
        with m.If(~self.start):
            m.d.comb += next_address.eq(
                group_address + Mux(mean, 0, PARAMETER_BYTES * arch.columns)
            )
        with m.Elif(is_table):
            m.d.comb += next_address.eq(table.table_address)
        with m.Else():
            m.d.comb += next_address.eq(fields.parameter_address)

        with m.If(self.group):
            m.d.sync += [
                self.reading.eq(
                    is_operation(fields, "requantize") | (is_table & self.start)
                ),
                self.index.eq(0),
                self.address.eq(next_address),
                group_address.eq(next_address),
            ]
            with m.If(is_table):
                m.d.sync += left.eq(Mux(table.table_width, TABLE_READS, _NARROW_TABLE_READS))
            with m.Else():
                m.d.sync += left.eq(Mux(mean, fields.parameter_count, self.channels))
        with m.Elif(self.advance):
            m.d.sync += [
                self.reading.eq(~ends),
                self.index.eq(self.index + 1),
                self.address.eq(
                    self.address + Mux(is_table, PARAMETER_BYTES, arch.ub_width_bytes)
                ),
                left.eq(left - Mux(is_table, 1, units_per_read)),
            ]
        return m
