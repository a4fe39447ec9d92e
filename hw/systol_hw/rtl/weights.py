"""The WEIGHTS engine, the weight FIFO and the shift sequencer (docs/timing.md, 6.3 and 6.4)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.counters import UNIT_STATES
from systol_hw.faults import Unit
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.rtl.block_ram import NO_COLLISIONS
from systol_hw.rtl.decoder import fields_of
from systol_hw.rtl.interfaces import (
    ADDRESS_BITS,
    INSTRUCTION_BITS,
    BeatSignature,
    EngineSignature,
    TileSignature,
    amount_bits,
)
from systol_hw.rtl.loops import LoopNest
from systol_hw.rtl.unified_buffer import rotate_left
from systol_hw.rtl.walker import BeatWalker

__all__ = ["TileWalker", "WeightFifo", "WeightsEngine", "weights_user_layout"]

_OPERATION = OPERATION_BY_NAME["read_weights"]
_LOOPS = ("inner_count", "outer_count", "n_count")  # innermost first
_KEPT = (*_LOOPS, "row_pitch", "n_stride", "outer_stride", "inner_stride", "k_last", "n_last")


def weights_user_layout(arch: Arch) -> data.StructLayout:
    """What WEIGHTS sends along with a beat: the place of its bytes in the FIFO, which bytes of the
    word they are, and whether they complete a tile, and an instruction."""
    width = arch.weight_port.width_bytes
    return data.StructLayout(
        {
            "slot": bits_for(arch.weight_fifo_tiles - 1),
            "row": bits_for(arch.rows - 1),
            "column": bits_for(arch.columns - 1),
            "offset": bits_for(width - 1),
            "live": bits_for(width),
            "tile_last": 1,
            "last": 1,
        }
    )


class TileWalker(Component):
    """The beats of a `read_weights` in order: tile by tile, row by row (6.3).

    Members
    -------
    start : In(1), word : In(512)
        Load an instruction; its first beat stands at the outputs from the next cycle on.
    advance : In(1)
        Go on to the next beat.
    weight_bytes : In(32)
        Size of weight memory.
    beat_address, offset, live, burst_last : Out
        The beat's aligned address, its live bytes' place in the word and their number.
    row, column : Out
        Place of the first live byte in its tile.
    rows_live, columns_live : Out
        Of the tile.
    first : Out(1), tile_last : Out(1), last : Out(1)
        The beat is the first or last of its tile, the last of the instruction.
    fault : Out(1)
        Live bytes are outside weight memory.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        width = arch.weight_port.width_bytes
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "weight_bytes": In(ADDRESS_BITS),
                "beat_address": Out(ADDRESS_BITS),
                "offset": Out(bits_for(width - 1)),
                "live": Out(bits_for(width)),
                "burst_last": Out(1),
                "row": Out(bits_for(arch.rows - 1)),
                "column": Out(bits_for(arch.columns - 1)),
                "rows_live": Out(bits_for(arch.rows)),
                "columns_live": Out(bits_for(arch.columns)),
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

        width = arch.weight_port.width_bytes
        m.submodules.walker = walker = BeatWalker(
            widths_bytes=(width, width),
            burst_bytes=arch.burst_bytes,
            length_bits=bits_for(arch.columns),
        )
        m.submodules.loops = loops = LoopNest({name: len(new[name]) for name in _LOOPS})
        next_row = Signal()  # the beat is its row's last
        next_tile = Signal()
        row_last = Signal()  # the row is its tile's last
        m.d.comb += [
            next_row.eq(self.advance & walker.run_last),
            next_tile.eq(next_row & row_last),
            loops.start.eq(self.start),
            loops.advance.eq(next_tile),
            row_last.eq(self.row + 1 == self.rows_live),
        ]
        for name in _LOOPS:
            m.d.comb += loops.counts[name].eq(Mux(self.start, new[name], kept[name]))

        # A step goes on from where the last turn of its own loop began: a row from the last row,
        # an inner step from the last tile, the others from their own bases.
        row_base, tile_base, outer_base, n_base = (
            Signal(ADDRESS_BITS, name=f"{name}_base") for name in ("row", "tile", "outer", "n")
        )
        base, step = Signal(ADDRESS_BITS), Signal(signed(ADDRESS_BITS))
        following = Signal(ADDRESS_BITS)
        with m.If(~row_last):
            m.d.comb += [base.eq(row_base), step.eq(kept.row_pitch)]
        with m.Elif(loops.steps.inner_count):
            m.d.comb += [base.eq(tile_base), step.eq(kept.inner_stride)]
        with m.Elif(loops.steps.outer_count):
            m.d.comb += [base.eq(outer_base), step.eq(kept.outer_stride)]
        with m.Else():
            m.d.comb += [base.eq(n_base), step.eq(kept.n_stride)]
        m.d.comb += following.eq(base + step)
        with m.If(self.start):
            m.d.sync += [b.eq(new.address) for b in (row_base, tile_base, outer_base, n_base)]
        with m.Elif(next_row):
            m.d.sync += row_base.eq(following)
            with m.If(next_tile):
                m.d.sync += tile_base.eq(following)
                with m.If(~loops.steps.inner_count):
                    m.d.sync += outer_base.eq(following)
                    with m.If(~loops.steps.outer_count):
                        m.d.sync += n_base.eq(following)

        # Live rows and columns of the next tile, for its first row.
        rows_next = Signal.like(self.rows_live)
        columns_next = Signal.like(self.columns_live)
        k_last = Mux(self.start, new.k_last, kept.k_last)
        n_last = Mux(self.start, new.n_last, kept.n_last)
        m.d.comb += [
            rows_next.eq(Mux(loops.next_last.inner_count, k_last, arch.rows)),
            columns_next.eq(Mux(loops.next_last.n_count, n_last, arch.columns)),
        ]
        with m.If(self.start | next_tile):
            m.d.sync += [
                self.rows_live.eq(rows_next),
                self.columns_live.eq(columns_next),
                self.row.eq(0),
            ]
        with m.Elif(next_row):
            m.d.sync += self.row.eq(self.row + 1)
        with m.If(self.start | next_row):
            m.d.sync += [self.column.eq(0), self.first.eq(self.start | row_last)]
        with m.Elif(self.advance):
            m.d.sync += [self.column.eq(self.column + walker.live), self.first.eq(0)]

        m.d.comb += [
            walker.load.eq(self.start | next_row),
            walker.address_in.eq(Mux(self.start, new.address, following)),
            walker.length_in.eq(
                Mux(self.start | next_tile, columns_next, self.columns_live)
            ),
            walker.advance.eq(self.advance),
            self.beat_address.eq(walker.beat_address),
            self.offset.eq(walker.offset),
            self.live.eq(walker.live),
            self.burst_last.eq(walker.burst_last),
            self.tile_last.eq(walker.run_last & row_last),
            self.last.eq(self.tile_last & loops.done),
            walker.limit.eq(self.weight_bytes),
            self.fault.eq(walker.beyond),
        ]
        return m


class WeightFifo(Component):
    """Tiles in arrival order, and the sequencer that shifts them into the array's shadow plane.

    The FIFO stores live bytes only; rows and columns beyond a tile's live ones are made zero as
    they are read.

    Members
    -------
    open : In(1), open_rows, open_columns : In
        A slot is used from the next cycle on, for a tile with so many live rows and columns.
    open_slot : Out
        The slot that `open` uses.
    used : Out
        Slots used (registered, 8.4).
    write : In(1), write_user : In(weights_user_layout), write_data : In
        A beat is delivered: its live bytes go to their place.
    tile : Out(TileSignature)
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "open": In(1),
                "open_rows": In(bits_for(arch.rows)),
                "open_columns": In(bits_for(arch.columns)),
                "open_slot": Out(bits_for(arch.weight_fifo_tiles - 1)),
                "used": Out(bits_for(arch.weight_fifo_tiles)),
                "write": In(1),
                "write_user": In(weights_user_layout(arch)),
                "write_data": In(8 * arch.weight_port.width_bytes),
                "tile": Out(TileSignature(arch)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, tile, user = self.arch, self.tile, self.write_user
        rows, columns, slots = arch.rows, arch.columns, arch.weight_fifo_tiles
        row_bits = ceil_log2(rows)

        m.submodules.memory = memory = Memory(
            shape=8 * columns, depth=slots << row_bits, init=[], attrs=NO_COLLISIONS
        )
        write, read = memory.write_port(granularity=8), memory.read_port()
        write_lanes, strobe = self._write_lanes(m)
        m.d.comb += [
            write.addr.eq(Cat(user.row[:row_bits], user.slot)),
            write.data.eq(write_lanes),
            write.en.eq(Mux(self.write, strobe, 0)),
        ]

        # Slots, in a ring: opened at the first grant, freed when the last row is read.
        sizes = data.StructLayout({"rows": bits_for(rows), "columns": bits_for(columns)})
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
            size_write.data.eq(Cat(self.open_rows, self.open_columns)),
            size_read.addr.eq(shift_slot),
        ]
        begin = Signal()  # cycle u of a shift
        finish = Signal()  # cycle u + R - 1
        ready = Signal(bits_for(slots))
        m.d.sync += [
            self.used.eq(self.used + self.open - finish),
            ready.eq(ready + (self.write & user.tile_last) - begin),
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
        rows_live = Signal(bits_for(rows))
        row_shown = Signal()
        columns_shown = Signal(columns)
        row = Signal(range(rows))
        with m.If(begin):
            m.d.sync += [
                reading.eq(1),
                row.eq(rows - 1),
                read_slot.eq(shift_slot),
                rows_live.eq(size.rows),
                tile.columns_live.eq(size.columns),
            ]
        with m.Elif(row == 0):
            m.d.sync += reading.eq(0)
        with m.Else():
            m.d.sync += row.eq(row - 1)
        m.d.comb += [read.en.eq(1), read.addr.eq(Cat(row[:row_bits], read_slot))]
        m.d.sync += [
            tile.shift.eq(reading),
            row_shown.eq(row < rows_live),
            # The next tile may begin in the cycle in which row 0 is read: the mask lags with it.
            columns_shown.eq(Cat(tile.columns_live > column for column in range(columns))),
        ]
        for column in range(columns):
            m.d.comb += tile.weights[column].eq(
                Mux(row_shown & columns_shown[column], read.data.word_select(column, 8), 0)
            )
        return m

    def _write_lanes(self, m: Module) -> tuple[Any, Any]:
        """The delivered word, turned so that live bytes stand at their columns, and their mask."""
        user, columns = self.write_user, self.arch.columns
        width = self.arch.weight_port.width_bytes
        lane_bits = ceil_log2(width)
        turn = (user.column - user.offset)[:lane_bits]
        turned = rotate_left(m, self.write_data, turn, "turned")
        end = user.column + user.live
        strobe = Cat((user.column <= column) & (end > column) for column in range(columns))
        return turned.replicate(-(-columns // width))[: 8 * columns], strobe


class WeightsEngine(Component):
    """WEIGHTS' accesses (6.3), with the weight FIFO.

    Members
    -------
    engine : In(EngineSignature)
    weight : Out(BeatSignature)
        Reads of the weight port.
    tile : Out(TileSignature)
        To the matrix unit.
    weight_bytes : In(32)
        Size of weight memory, for the address check.
    used : Out
        Slots of the weight FIFO that are used (registered, 8.4).
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(Unit.WEIGHTS, amount_bits(arch, Unit.WEIGHTS))),
                "weight": Out(
                    BeatSignature(
                        width_bytes=arch.weight_port.width_bytes,
                        user_bits=weights_user_layout(arch).size,
                        write=False,
                    )
                ),
                "tile": Out(TileSignature(arch)),
                "weight_bytes": In(ADDRESS_BITS),
                "used": Out(bits_for(arch.weight_fifo_tiles)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, engine, beat = self.arch, self.engine, self.weight
        code = {s.name: s.code for s in UNIT_STATES[Unit.WEIGHTS]}
        m.submodules.walker = walker = TileWalker(arch)
        m.submodules.fifo = fifo = WeightFifo(arch)
        connect(m, fifo.tile, flipped(self.tile))
        no_slot = Signal()
        user = Signal(weights_user_layout(arch))
        slot = Signal.like(fifo.open_slot)  # the slot of the tile whose first beat was granted
        arrived = data.View(weights_user_layout(arch), beat.delivered_user)
        m.d.comb += [
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(beat.grant),
            walker.weight_bytes.eq(self.weight_bytes),
            no_slot.eq(walker.first & (fifo.used == arch.weight_fifo_tiles)),
            user.slot.eq(Mux(walker.first, fifo.open_slot, slot)),
            user.row.eq(walker.row),
            user.column.eq(walker.column),
            user.offset.eq(walker.offset),
            user.live.eq(walker.live),
            user.tile_last.eq(walker.tile_last),
            user.last.eq(walker.last),
            # What does not exist is not presented, and so refused, in its fault's cycle.
            beat.request.eq(engine.active & ~no_slot & ~walker.fault),
            beat.address.eq(walker.beat_address),
            beat.window.eq(Const(0)),
            beat.burst_last.eq(walker.burst_last),
            beat.user.eq(user),
            fifo.open.eq(beat.grant & walker.first),
            fifo.open_rows.eq(walker.rows_live),
            fifo.open_columns.eq(walker.columns_live),
            fifo.write.eq(beat.delivered),
            fifo.write_user.eq(beat.delivered_user),
            fifo.write_data.eq(beat.read_data),
            self.used.eq(fifo.used),
            engine.ready.eq(1),
            engine.performed.eq(beat.grant),
            engine.last.eq(walker.last),
            engine.state.eq(
                Mux(no_slot, code["wait_fifo"], Mux(beat.grant, code["busy"], code["wait_port"]))
            ),
            engine.address_fault.eq(walker.fault),
            engine.amount_weight_bytes.eq(Mux(beat.grant, walker.live, 0)),
            engine.end.eq(beat.delivered & arrived.last),
        ]
        with m.If(fifo.open):
            m.d.sync += slot.eq(fifo.open_slot)
        return m


def _next_slot(slot: Signal, slots: int) -> Any:
    """The slot after `slot` in the ring."""
    return Mux(slot == slots - 1, 0, slot + 1)
