"""The accesses of WEIGHTS: tiles, their lines, and the beats of a line (docs/timing.md, 6.3)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.walk.beat_walker import BeatWalker
from systol_hw.rtl.walk.loop_nest import LoopNest
from systol_hw.rtl.weights.weight_fifo import line_bits

__all__ = ["TileWalker"]

_OPERATION = OPERATION_BY_NAME["read_weights"]
_FROM_BUFFER = OPERATION_BY_NAME["read_weights_ub"]
_LOOPS = ("inner_count", "outer_count", "n_count")  # innermost first
_KEPT = (*_LOOPS, "transpose", "row_pitch", "n_stride", "outer_stride", "inner_stride", "k_last",
         "n_last")


class TileWalker(Component):
    """The accesses of a Weights instruction in order: tile by tile, line by line (6.3).

    From weight memory an access is a beat, from the unified buffer it is a whole line.

    Members
    -------
    start : In(1), word : In(512)
        Load an instruction; its first access stands at the outputs from the next cycle on.
    advance : In(1)
        Go on to the next access.
    weight_bytes : In(32)
        Size of weight memory.
    from_buffer : Out(1)
        The instruction reads the unified buffer.
    address, live : Out
        First live byte, and the number of live bytes.
    beat_address, burst_last : Out
        A beat's aligned address; it is the last of its burst.
    line : Out
        Line of the tile.
    memory, turn : Out
        Memory of the weight FIFO that takes the first live byte (weight_fifo.py), and by how many
        bytes a word is turned to the left to bring it there.
    rows_live, columns_live, transpose : Out
        Of the tile.
    first : Out(1), tile_last : Out(1), last : Out(1)
        The access is the first or last of its tile, the last of the instruction.
    fault : Out(1)
        Live bytes are outside the source.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        lanes = ceil_log2(arch.ub_width_bytes)
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "weight_bytes": In(ADDRESS_BITS),
                "from_buffer": Out(1),
                "address": Out(ADDRESS_BITS),
                "live": Out(bits_for(arch.ub_width_bytes)),
                "beat_address": Out(ADDRESS_BITS),
                "burst_last": Out(1),
                "line": Out(line_bits(arch)),
                "memory": Out(lanes),
                "turn": Out(lanes),
                "rows_live": Out(bits_for(arch.rows)),
                "columns_live": Out(bits_for(arch.columns)),
                "transpose": Out(1),
                "first": Out(1),
                "tile_last": Out(1),
                "last": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        new = fields_of(self.word, _OPERATION)
        kept = Signal(data.StructLayout({name: len(new[name]) for name in _KEPT}))
        with m.If(self.start):
            m.d.sync += [kept[name].eq(new[name]) for name in _KEPT]
            m.d.sync += self.from_buffer.eq(new.opcode == _FROM_BUFFER.opcode)

        width = arch.weight_port.width_bytes
        m.submodules.walker = walker = BeatWalker(
            widths_bytes=(width, width),
            burst_bytes=arch.burst_bytes,
            length_bits=bits_for(max(arch.rows, arch.columns)),
        )
        m.submodules.loops = loops = LoopNest({name: len(new[name]) for name in _LOOPS})
        access_last = Signal()  # the access is its line's last
        next_line = Signal()
        next_tile = Signal()
        line_last = Signal()  # the line is its tile's last
        m.d.comb += [
            access_last.eq(walker.run_last | self.from_buffer),
            next_line.eq(self.advance & access_last),
            next_tile.eq(next_line & line_last),
            loops.start.eq(self.start),
            loops.advance.eq(next_tile),
            line_last.eq(
                self.line + 1 == Mux(kept.transpose, self.columns_live, self.rows_live)
            ),
        ]
        for name in _LOOPS:
            m.d.comb += loops.counts[name].eq(Mux(self.start, new[name], kept[name]))
        following = self._addresses(m, new, kept, loops, next_line, next_tile, line_last)

        # Live rows and columns of the next tile, for its first line.
        rows_next = Signal.like(self.rows_live)
        columns_next = Signal.like(self.columns_live)
        k_last = Mux(self.start, new.k_last, kept.k_last)
        n_last = Mux(self.start, new.n_last, kept.n_last)
        m.d.comb += [
            rows_next.eq(Mux(loops.next_last.inner_count, k_last, arch.rows)),
            columns_next.eq(Mux(loops.next_last.n_count, n_last, arch.columns)),
        ]
        length = Signal(walker.length_bits)  # of the line
        length_next = Signal.like(length)
        new_tile = self.start | next_tile
        m.d.comb += length_next.eq(
            Mux(Mux(self.start, new.transpose, kept.transpose), rows_next, columns_next)
        )
        with m.If(new_tile):
            m.d.sync += [
                self.rows_live.eq(rows_next),
                self.columns_live.eq(columns_next),
                length.eq(length_next),
                self.line.eq(0),
                self.memory.eq(0),
            ]
        with m.Elif(next_line):
            m.d.sync += [self.line.eq(self.line + 1), self.memory.eq(self.line + 1)]
        with m.Elif(self.advance):
            m.d.sync += self.memory.eq(self.memory + walker.live)
        with m.If(self.start | self.advance):
            m.d.sync += self.first.eq(new_tile)

        m.d.comb += [
            walker.load.eq(self.start | next_line),
            walker.address_in.eq(Mux(self.start, new.address, following)),
            walker.length_in.eq(Mux(new_tile, length_next, length)),
            walker.advance.eq(self.advance),
            walker.limit.eq(Mux(self.from_buffer, arch.ub_bytes, self.weight_bytes)),
            self.address.eq(walker.address),
            self.beat_address.eq(walker.beat_address),
            self.burst_last.eq(walker.burst_last),
            self.live.eq(Mux(self.from_buffer, length, walker.live)),
            self.turn.eq(self.memory - Mux(self.from_buffer, 0, walker.offset)),
            self.transpose.eq(kept.transpose),
            self.tile_last.eq(access_last & line_last),
            self.last.eq(self.tile_last & loops.done),
            self.fault.eq(Mux(self.from_buffer, walker.run_beyond, walker.beyond)),
        ]
        return m

    def _addresses(
        self, m: Module, new: Any, kept: Any, loops: Any, next_line: Any, next_tile: Any,
        line_last: Any,
    ) -> Signal:
        """First byte of the next line.

        A step goes on from where the last turn of its own loop began: a line from the last line,
        an inner step from the last tile, the others from their own bases.
        """
        line_base, tile_base, outer_base, n_base = (
            Signal(ADDRESS_BITS, name=f"{name}_base") for name in ("line", "tile", "outer", "n")
        )
        base, step = Signal(ADDRESS_BITS), Signal(signed(ADDRESS_BITS))
        following = Signal(ADDRESS_BITS)
        with m.If(~line_last):
            m.d.comb += [base.eq(line_base), step.eq(kept.row_pitch)]
        with m.Elif(loops.steps.inner_count):
            m.d.comb += [base.eq(tile_base), step.eq(kept.inner_stride)]
        with m.Elif(loops.steps.outer_count):
            m.d.comb += [base.eq(outer_base), step.eq(kept.outer_stride)]
        with m.Else():
            m.d.comb += [base.eq(n_base), step.eq(kept.n_stride)]
        m.d.comb += following.eq(base + step)
        with m.If(self.start):
            m.d.sync += [b.eq(new.address) for b in (line_base, tile_base, outer_base, n_base)]
        with m.Elif(next_line):
            m.d.sync += line_base.eq(following)
            with m.If(next_tile):
                m.d.sync += tile_base.eq(following)
                with m.If(~loops.steps.inner_count):
                    m.d.sync += outer_base.eq(following)
                    with m.If(~loops.steps.outer_count):
                        m.d.sync += n_base.eq(following)
        return following
