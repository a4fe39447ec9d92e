"""The weight FIFO and the shift sequencer (docs/timing.md, 6.3 and 6.4).

A tile arrives in lines, which are its rows or its columns, and leaves row by row. So its bytes lie
skewed over W byte-wide memories, W the width of the unified buffer: byte b of line j is in memory
(b + j) mod W at address j of the tile's slot. A line is then written in one cycle, turned by j, and
a row r is read in one: where lines are rows, at address r of every memory; where lines are columns,
column c's byte r is at address c of memory (r + c) mod W. Either way column c's byte is in memory
(c + r) mod W, so one rotator serves both.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.rtl.contract.interfaces import TileSignature
from systol_hw.rtl.parts.block_ram import BLOCK_RAM
from systol_hw.rtl.parts.rotate import rotate_left, rotate_right

__all__ = ["WeightFifo", "line_bits", "place_layout"]


def line_bits(arch: Arch) -> int:
    """Bits of the number of a line, or of a byte's place in it: a tile's rows or columns."""
    bits: int = ceil_log2(max(arch.rows, arch.columns))
    return bits


def place_layout(arch: Arch) -> data.StructLayout:
    """Where delivered bytes of a tile go, and what they complete.

    The live bytes go to `live` memories from `first` on, at `line` of `slot`; the word is turned
    left by `turn` bytes to get them there. `tile_last` and `last`: they complete a tile, and an
    instruction.
    """
    lanes = ceil_log2(arch.ub_width_bytes)
    return data.StructLayout(
        {
            "slot": bits_for(arch.weight_fifo_tiles - 1),
            "line": line_bits(arch),
            "first": lanes,
            "turn": lanes,
            "live": bits_for(arch.ub_width_bytes),
            "tile_last": 1,
            "last": 1,
        }
    )


class WeightFifo(Component):
    """Tiles in arrival order, and the sequencer that shifts them into the array's shadow plane.

    The FIFO stores live bytes only; rows and columns beyond a tile's live ones are made zero as
    they are read.

    Members
    -------
    open : In(1), open_rows, open_columns, open_transpose : In
        A slot is used from the next cycle on, for a tile with so many live rows and columns, whose
        lines are its columns if `open_transpose`.
    open_slot : Out
        The slot that `open` uses.
    used : Out
        Slots used (registered, 8.4).
    write : In(1), write_place : In(place_layout), write_data : In(8 * W)
        A beat or a line is delivered: its live bytes go to their place.
    tile : Out(TileSignature)
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "open": In(1),
                "open_rows": In(bits_for(arch.rows)),
                "open_columns": In(bits_for(arch.columns)),
                "open_transpose": In(1),
                "open_slot": Out(bits_for(arch.weight_fifo_tiles - 1)),
                "used": Out(bits_for(arch.weight_fifo_tiles)),
                "write": In(1),
                "write_place": In(place_layout(arch)),
                "write_data": In(8 * arch.ub_width_bytes),
                "tile": Out(TileSignature(arch)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, tile = self.arch, self.tile
        rows, columns, slots = arch.rows, arch.columns, arch.weight_fifo_tiles

        # Slots, in a ring: opened at the first grant, freed when the last row is read.
        sizes = data.StructLayout(
            {"rows": bits_for(rows), "columns": bits_for(columns), "transpose": 1}
        )
        m.submodules.sizes = size_memory = Memory(
            shape=sizes.size, depth=1 << ceil_log2(max(2, slots)), init=[]
        )
        size_write = size_memory.write_port()
        size_read = size_memory.read_port(domain="comb")
        shift_slot = Signal.like(self.open_slot)
        size = data.View(sizes, size_read.data)
        m.d.comb += [
            size_write.en.eq(self.open),
            size_write.addr.eq(self.open_slot),
            size_write.data.eq(Cat(self.open_rows, self.open_columns, self.open_transpose)),
            size_read.addr.eq(shift_slot),
        ]
        begin = Signal()  # cycle u of a shift
        finish = Signal()  # cycle u + R - 1
        ready = Signal(bits_for(slots))
        m.d.sync += [
            self.used.eq(self.used + self.open - finish),
            ready.eq(ready + (self.write & self.write_place.tile_last) - begin),
        ]
        with m.If(self.open):
            m.d.sync += self.open_slot.eq(_next_slot(self.open_slot, slots))
        with m.If(begin):
            m.d.sync += shift_slot.eq(_next_slot(shift_slot, slots))

        # The shadow plane (6.4).
        m.d.comb += begin.eq(
            (ready != 0) & Mux(tile.full, tile.take, ~tile.shifting)
        )
        count = Signal(range(rows))  # R-1 in cycle u+1, 1 in cycle u+R-1
        m.d.comb += finish.eq(tile.shifting & (count == 1))
        with m.If(begin):
            m.d.sync += [tile.shifting.eq(1), tile.full.eq(0), count.eq(rows - 1)]
        with m.Elif(tile.shifting):
            m.d.sync += count.eq(count - 1)
            with m.If(finish):
                m.d.sync += [tile.shifting.eq(0), tile.full.eq(1)]
        with m.Elif(tile.take):
            m.d.sync += tile.full.eq(0)

        # Rows are read in u+1..u+R, the last one first, and shown in u+2..u+R+1.
        reading, read_slot = Signal(), Signal.like(shift_slot)
        rows_live, transpose = Signal(bits_for(rows)), Signal()
        row = Signal(range(rows))
        with m.If(begin):
            m.d.sync += [
                reading.eq(1),
                row.eq(rows - 1),
                read_slot.eq(shift_slot),
                rows_live.eq(size.rows),
                transpose.eq(size.transpose),
                tile.columns_live.eq(size.columns),
            ]
        with m.Elif(row == 0):
            m.d.sync += reading.eq(0)
        with m.Else():
            m.d.sync += row.eq(row - 1)

        row_shown, turn = Signal(), Signal(ceil_log2(arch.ub_width_bytes))
        columns_shown = Signal(columns)
        m.d.sync += [
            tile.shift.eq(reading),
            turn.eq(row),
            row_shown.eq(row < rows_live),
            # The next tile may begin in the cycle in which row 0 is read: the mask lags with it.
            columns_shown.eq(Cat(tile.columns_live > column for column in range(columns))),
        ]
        stored = self._memories(m, read_slot, row, transpose)
        lanes = rotate_right(m, stored, turn, "read_turned")
        for column in range(columns):
            m.d.comb += tile.weights[column].eq(
                Mux(row_shown & columns_shown[column], lanes.word_select(column, 8), 0)
            )
        return m

    def _memories(self, m: Module, slot: Signal, row: Signal, transpose: Signal) -> Any:
        """The W memories, written by the delivery; returns what they hold of `row` of the tile in
        `slot`, one cycle later."""
        arch, place = self.arch, self.write_place
        width, bits = arch.ub_width_bytes, line_bits(self.arch)
        turned = rotate_left(m, self.write_data, place.turn, "write_turned")
        strobe = Cat(place.live > lane for lane in range(width))
        strobe = rotate_left(m, strobe, place.first, "strobe_turned", unit_bits=1)
        stored = []
        for lane in range(width):
            memory = Memory(
                shape=8, depth=arch.weight_fifo_tiles << bits, init=[], attrs=BLOCK_RAM
            )
            m.submodules[f"memory_{lane}"] = memory
            write, read = memory.write_port(), memory.read_port()
            # Where lines are columns, the memory has the byte of column (lane - row) mod W.
            column = Signal(ceil_log2(width), name=f"column_{lane}")
            m.d.comb += [
                write.addr.eq(Cat(place.line, place.slot)),
                write.data.eq(turned.word_select(lane, 8)),
                write.en.eq(self.write & strobe[lane]),
                column.eq(lane - row),
                read.en.eq(1),
                read.addr.eq(Cat(Mux(transpose, column, row)[:bits], slot)),
            ]
            stored.append(read.data)
        return Cat(stored)


def _next_slot(slot: Signal, slots: int) -> Any:
    """The slot after `slot` in the ring."""
    return Mux(slot == slots - 1, 0, slot + 1)
