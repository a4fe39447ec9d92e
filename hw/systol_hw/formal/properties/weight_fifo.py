"""The weight FIFO: tiles are shifted in the order in which they were opened, whole, byte for byte.

A harness marks an arbitrary tile as it is opened, and an arbitrary row and column of it, and counts
the tiles before it: those to be shifted, and those with bytes yet to come. Bytes come as WEIGHTS
delivers them: to the oldest tile that wants any, each delivery a piece of one of its lines.
"""

import dataclasses
from functools import partial
from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal
from amaranth.utils import bits_for

from systol_hw.arch import PRESETS, Arch
from systol_hw.formal.proof import Insides, Mutant, Proof, free
from systol_hw.formal.properties.queues import around

__all__ = ["PROOFS"]

_ARCH = dataclasses.replace(PRESETS["nano"], rows=4, columns=4, vector_lanes=2)


def _pieces(m: Module, dut: Any, slot: Any) -> tuple[Signal, Signal]:
    """Deliveries are pieces of lines of the tile in `slot`; returns the number of a piece's first
    byte in its line, and of that byte in the delivered word."""
    width, place = dut.arch.ub_width_bytes, dut.write_place
    first, offset = Signal(range(width)), Signal(range(width))
    line, live = Signal(range(max(dut.arch.rows, dut.arch.columns))), Signal(bits_for(width))
    free(m, first, offset, line, live, place.tile_last, place.last, dut.write, dut.write_data)
    m.d.comb += [
        place.slot.eq(slot),
        place.line.eq(line),
        # Byte b of line j lies in memory b + j; the word is turned until it meets that.
        place.first.eq(first + line),
        place.turn.eq(first + line - offset),
        place.live.eq(live),
        Assume((live != 0) & (first + live <= width) & (offset + live <= width)),
    ]
    return first, offset


def _weight_fifo(source: Any, *, arch: Arch) -> Module:
    m = Module()
    dut = source.WeightFifo(arch)
    inside = Insides(dut)
    width, rows, columns, tiles = (
        arch.ub_width_bytes, arch.rows, arch.columns, arch.weight_fifo_tiles,
    )  # fmt: skip
    probes = [
        inside.submodule(f"memory_{lane}").read_port(domain="comb") for lane in range(width)
    ]
    sizes = inside.submodule("sizes").read_port(domain="comb")
    m.submodules.fifo = fragment = inside.fragment
    r = inside.signals(fragment)
    begin, finish, tile = r["begin"], r["finish"], dut.tile
    # Amaranth finds no name for the first signal of a pair.
    reading, rows_read = r["$signal"], r["$signal_2"]
    free(m, dut.open, dut.open_rows, dut.open_columns, dut.open_transpose, tile.take)

    # Tiles opened and not complete, complete and not begun.
    bits = bits_for(tiles)
    partial_tiles, ready = Signal(bits), Signal(bits)
    completes = Signal()
    m.d.comb += completes.eq(dut.write & dut.write_place.tile_last)
    m.d.sync += [
        partial_tiles.eq(partial_tiles + dut.open - completes),
        ready.eq(ready + completes - begin),
    ]
    first, offset = _pieces(m, dut, around(m, r["shift_slot"], ready, tiles, "filling"))
    m.d.comb += [
        Assume(~dut.open | (dut.used < tiles)),
        Assume(~dut.write | (partial_tiles != 0)),
        Assume(~tile.take | tile.full),
        Assume((dut.open_rows <= rows) & (dut.open_columns <= columns)),
    ]

    tracked, mark, whole, known = Signal(), Signal(), Signal(), Signal()
    before, to_fill = Signal(bits), Signal(bits)
    age = Signal(range(rows + 2))  # cycles since the tile's shift began; 0 before it
    row, column = Signal(range(rows)), Signal(range(columns))
    opened = Cat(dut.open_rows, dut.open_columns, dut.open_transpose)
    size, value, slot = Signal(len(opened)), Signal(8), Signal.like(dut.open_slot)
    rows_live, columns_live = Signal.like(dut.open_rows), Signal.like(dut.open_columns)
    transpose, line, byte = Signal(), Signal(range(rows)), Signal(range(width))
    m.d.comb += [
        mark.eq(AnySeq(1)),
        row.eq(AnyConst(len(row))),
        column.eq(AnyConst(len(column))),
        Cat(rows_live, columns_live, transpose).eq(size),
        line.eq(Mux(transpose, column, row)),
        byte.eq(Mux(transpose, row, column)),
    ]
    starts = Signal()
    m.d.comb += starts.eq(tracked & (age == 0) & (before == 0) & begin)
    with m.If(~tracked & dut.open & mark):
        m.d.sync += [
            tracked.eq(1), whole.eq(0), known.eq(0), size.eq(opened), slot.eq(dut.open_slot),
            before.eq(partial_tiles + ready - begin), to_fill.eq(partial_tiles - completes),
        ]  # fmt: skip
    with m.Elif(tracked):
        with m.If(age == 0):
            m.d.sync += [age.eq(starts), before.eq(before - (begin & ~starts))]
        with m.Elif(age == rows + 1):
            m.d.sync += [age.eq(0), tracked.eq(0)]
        with m.Else():
            m.d.sync += age.eq(age + 1)
        with m.If(to_fill != 0):
            m.d.sync += to_fill.eq(to_fill - completes)
        with m.Elif(~whole & dut.write):
            m.d.sync += whole.eq(completes)
            covered = (first <= byte) & (byte < first + dut.write_place.live)
            with m.If(covered & (dut.write_place.line == line)):
                m.d.sync += [
                    known.eq(1),
                    value.eq(dut.write_data.word_select((offset + byte - first)[:8], 8)),
                ]

    # Where the byte lies.
    lane, stored = Signal(range(width)), Signal(8)
    m.d.comb += [
        lane.eq(row + column),
        stored.eq(Array(probe.data for probe in probes)[lane]),
        sizes.addr.eq(slot),
        *(probe.addr.eq(Cat(line, slot)) for probe in probes),
    ]
    waiting, shifting = Signal(), Signal()
    alive = (row < rows_live) & (column < columns_live)
    weight = Array(tile.weights[c] for c in range(columns))[column].as_unsigned()
    m.d.comb += [
        waiting.eq(tracked & (age == 0)),
        shifting.eq(tracked & (age != 0)),
        # Whole tiles only, in turn, into a plane that is free or being taken.
        Assert(~starts | whole),
        Assert(begin == ((ready != 0) & Mux(tile.full, tile.take, ~tile.shifting))),
        Assert(~(tile.full & tile.shifting)),
        # R rows, the last one first, from the second cycle after the begin on.
        Assert(~(shifting & (age >= 2)) | tile.shift),
        Assert(
            ~(shifting & (age == rows + 1 - row))
            | (alive & ~known)
            | (weight == Mux(alive, value, 0))
        ),
        Assert(~(shifting & (age < rows)) | (tile.shifting & ~tile.full)),
        Assert(~(shifting & (age == rows)) | (tile.full & (tile.columns_live == columns_live))),
        # Slots.
        Assert(dut.used == partial_tiles + ready + tile.shifting),
        Assert(partial_tiles + ready + tile.shifting <= tiles),
        Assert(r["ready"] == ready),
        Assert(r["shift_slot"] < tiles),
        Assert(
            dut.open_slot
            == around(m, r["shift_slot"], (partial_tiles + ready)[:bits], tiles, "opening")
        ),
        Assert(~tile.shifting | (reading & (r["row"] == r["count"]) & (r["count"] != 0))),
        Assert(~finish | (r["count"] == 1)),
        # The tracked tile.
        Assert(tracked | (age == 0)),
        Assert(age <= rows + 1),
        Assert(~waiting | (before < partial_tiles + ready)),
        Assert(~waiting | (whole == (before < ready))),
        Assert(~waiting | whole | (to_fill == before - ready)),
        Assert(~tracked | ~whole | (to_fill == 0)),
        Assert(~shifting | whole),
        Assert(~waiting | (slot == around(m, r["shift_slot"], before, tiles, "place"))),
        Assert(~waiting | (sizes.data == size)),
        Assert(~tracked | (rows_live <= rows) & (columns_live <= columns)),
        # Until its row is read, the byte stays.
        Assert(~(tracked & known & (age <= rows - row)) | (stored == value)),
    ]
    read = shifting & (age <= rows)
    after = around(m, slot, 1, tiles, "after")
    m.d.comb += [
        Assert(~read | (reading & (r["row"] == rows - age))),
        Assert(~read | (r["read_slot"] == slot) & (r["shift_slot"] == after)),
        Assert(~read | (rows_read == rows_live) & (r["transpose"] == transpose)),
        Assert(~read | (tile.columns_live == columns_live)),
        Assert(~(read & (age == rows)) | (partial_tiles + ready < tiles)),
    ]
    return m


PROOFS: tuple[Proof, ...] = tuple(
    Proof(
        name=f"weight-fifo-{tiles}",
        source="systol_hw.rtl.weights.weight_fifo",
        states="any tile opened is shifted after exactly the tiles before it, when its last bytes "
        "have come and the shadow plane is free or being taken, and not sooner: any byte of it "
        "enters the array in its row's cycle and its column as it was delivered, and zero where "
        f"the tile is dead; no slot is opened or written that is still to be read. {tiles} tiles, "
        "four rows and columns",
        build=partial(
            _weight_fifo, arch=dataclasses.replace(_ARCH, weight_fifo_tiles=tiles)
        ),
        depth=10,
        mutants=(
            Mutant(old="self.used + self.open - finish", new="self.used + self.open - begin"),
            Mutant(old="(self.write & self.write_place.tile_last) - begin",
                   new="self.write - begin"),
            Mutant(old="Mux(tile.full, tile.take, ~tile.shifting)", new="~tile.shifting"),
            Mutant(old="read_slot.eq(shift_slot)", new="read_slot.eq(self.open_slot)"),
            Mutant(old="column.eq(lane - row)", new="column.eq(lane + row)"),
            *([Mutant(old="slot == slots - 1", new="slot == slots")] if tiles == 3 else []),
        ),
    )
    for tiles in (2, 3)
)
"""Proofs about the weight FIFO."""
