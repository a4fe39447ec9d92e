"""One vector lane's table of a function, and its look-up (docs/numerics.md, 5)."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from systol_hw.isa.choices import TableWidth
from systol_hw.rtl.parts.block_ram import NO_COLLISIONS
from systol_hw.rtl.parts.convert_once import converted_once
from systol_hw.rtl.vector.mode import OPERAND_BITS
from systol_hw.rtl.vector.operand_hold import VALUE_BITS

__all__ = ["TABLE_READS", "TABLE_READ_BYTES", "TableLookup", "table_words"]

TABLE_READ_BYTES = 8
TABLE_READS = -(-TableWidth.KNOTS.table_bytes // TABLE_READ_BYTES)
"""Reads that a table of knots takes; one of bytes takes half as many."""

_INDEX_BITS = 7


def table_words(read: Any, narrow: Any) -> Any:
    """The 8 bytes of a table read, split for the two memories: even knots low, odd ones high.

    A word of each memory holds two knots, or four bytes in the order 0, 2, 1, 3, so that bit 0 of
    a knot's number selects the memory and bit 1 the half of its word in both kinds of table.
    """
    byte = [read[8 * i : 8 * i + 8] for i in range(8)]
    knots = Cat(byte[i] for i in (0, 1, 4, 5, 2, 3, 6, 7))
    entries = Cat(byte[i] for i in (0, 4, 2, 6, 1, 5, 3, 7))
    return Mux(narrow, entries, knots)


class TableLookup(Component):
    """Two knots of a table at a time, from a block RAM of even knots and one of odd ones.

    Members
    -------
    narrow : In(1)
        The table holds 256 signed bytes, not 257 knots of 16 bits.
    write : In(1), write_index : In(7), write_data : In(64)
        `table_words` of read `write_index` of the table.
    following : In(VALUE_BITS)
        Its signed `OPERAND_BITS` are u, which counts as 0 if it is negative.
    value : In(VALUE_BITS)
        `following` of the cycle before.
    knot : Out(signed(16)), difference : Out(signed(17)), fraction : Out(8)
        Of `value`: T[u // 256], T[u // 256 + 1] less it, and u % 256; of a `narrow` table the
        fraction is 0 and the difference undefined. Combinational.
    """

    narrow: In(1)
    write: In(1)
    write_index: In(_INDEX_BITS)
    write_data: In(64)
    following: In(VALUE_BITS)
    value: In(VALUE_BITS)
    knot: Out(signed(16))
    difference: Out(signed(17))
    fraction: Out(8)

    @converted_once()
    def elaborate(self, platform: Any) -> Module:
        m = Module()

        def limited(value: Any, name: str) -> tuple[Any, Any]:
            """The number of the knot, and its number among those of the even memory."""
            index, even = Signal(8, name=name), Signal(8, name=f"{name}_even")
            u = value[:OPERAND_BITS]
            m.d.comb += [
                index.eq(Mux(u[-1], 0, u[8:16])),
                even.eq((index + 1) >> 1),  # at most 128: the knot behind the last odd one
            ]
            return index, even

        next_index, next_even = limited(self.following, "next_index")
        index, even = limited(self.value, "index")
        words = []
        for odd, (among_all, place) in enumerate(
            [(next_even, even[0]), (next_index >> 1, index[1])]
        ):
            memory = Memory(
                shape=32,
                depth=1 << _INDEX_BITS,
                init=[],
                attrs={**NO_COLLISIONS, "ram_style": "block"},
            )
            m.submodules["odd" if odd else "even"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write),
                write.addr.eq(self.write_index),
                write.data.eq(self.write_data.word_select(odd, 32)),
                read.en.eq(1),
                read.addr.eq(Mux(self.narrow, among_all >> 2, among_all >> 1)),
            ]
            words.append(Array([read.data[:16], read.data[16:]])[place])

        here, there = Signal(signed(16)), Signal(signed(16))
        byte = Signal(signed(8))
        m.d.comb += [
            here.eq(Mux(index[0], words[1], words[0])),
            there.eq(Mux(index[0], words[0], words[1])),
            byte.eq(Mux(index[2], here[8:], here[:8])),
            self.knot.eq(Mux(self.narrow, byte, here)),
            self.difference.eq(there - here),
            self.fraction.eq(
                Mux(self.narrow | self.value[OPERAND_BITS - 1], 0, self.value[:8])
            ),
        ]
        return m
