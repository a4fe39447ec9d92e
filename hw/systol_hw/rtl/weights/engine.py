"""The WEIGHTS engine: tiles from weight memory or the unified buffer (docs/timing.md, 6.3)."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.rtl.contract.interfaces import (
    BeatSignature,
    EngineSignature,
    TileSignature,
    UbReadSignature,
    amount_bits,
)
from systol_hw.rtl.contract.widths import ADDRESS_BITS
from systol_hw.rtl.weights.tile_walker import TileWalker
from systol_hw.rtl.weights.weight_fifo import WeightFifo, place_layout
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

__all__ = ["WeightsEngine"]


class WeightsEngine(Component):
    """WEIGHTS' accesses (6.3), with the weight FIFO.

    Members
    -------
    engine : In(EngineSignature)
    weight : Out(BeatSignature)
        Reads of the weight port.
    ub : Out(UbReadSignature)
        Reads of the unified buffer.
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
                        user_bits=place_layout(arch).size,
                        write=False,
                    )
                ),
                "ub": Out(UbReadSignature(arch)),
                "tile": Out(TileSignature(arch)),
                "weight_bytes": In(ADDRESS_BITS),
                "used": Out(bits_for(arch.weight_fifo_tiles)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, engine, beat, ub = self.arch, self.engine, self.weight, self.ub
        code = {s.name: s.code for s in UNIT_STATES[Unit.WEIGHTS]}
        m.submodules.walker = walker = TileWalker(arch)
        m.submodules.fifo = fifo = WeightFifo(arch)
        connect(m, fifo.tile, flipped(self.tile))
        no_slot, may_access, granted = Signal(), Signal(), Signal()
        place = Signal(place_layout(arch))
        slot = Signal.like(fifo.open_slot)  # the slot of the tile whose first access was granted
        refused = Mux(walker.from_buffer, code["wait_bank"], code["wait_port"])
        m.d.comb += [
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(granted),
            walker.weight_bytes.eq(self.weight_bytes),
            no_slot.eq(walker.first & (fifo.used == arch.weight_fifo_tiles)),
            # What does not exist is not presented, and so refused, in its fault's cycle.
            may_access.eq(engine.active & ~no_slot & ~walker.fault),
            granted.eq(beat.grant | ub.grant),
            place.slot.eq(Mux(walker.first, fifo.open_slot, slot)),
            place.line.eq(walker.line),
            place.first.eq(walker.memory),
            place.turn.eq(walker.turn),
            place.live.eq(walker.live),
            place.tile_last.eq(walker.tile_last),
            place.last.eq(walker.last),
            beat.request.eq(may_access & ~walker.from_buffer),
            beat.address.eq(walker.beat_address),
            beat.window.eq(Const(0)),
            beat.burst_last.eq(walker.burst_last),
            beat.user.eq(place),
            ub.request.eq(may_access & walker.from_buffer),
            ub.address.eq(walker.address),
            ub.length.eq(walker.live),
            fifo.open.eq(granted & walker.first),
            fifo.open_rows.eq(walker.rows_live),
            fifo.open_columns.eq(walker.columns_live),
            fifo.open_transpose.eq(walker.transpose),
            self.used.eq(fifo.used),
            engine.ready.eq(1),
            engine.performed.eq(granted),
            engine.last.eq(walker.last),
            engine.state.eq(
                Mux(no_slot, code["wait_fifo"], Mux(granted, code["busy"], refused))
            ),
            engine.address_fault.eq(walker.fault),
            engine.amount_weight_bytes.eq(Mux(beat.grant, walker.live, 0)),
            engine.amount_ub_bytes.eq(Mux(ub.grant, walker.live, 0)),
        ]
        with m.If(fifo.open):
            m.d.sync += slot.eq(fifo.open_slot)
        self._deliver(m, fifo, place)
        return m

    def _deliver(self, m: Module, fifo: WeightFifo, place: Signal) -> None:
        """Beats come when the port delivers them, lines in the cycle after their grant; only one
        source has accesses in flight at a time (5.2.2)."""
        arch, beat, ub = self.arch, self.weight, self.ub
        came = Signal()
        line_place = Signal(place_layout(arch))
        m.d.sync += [came.eq(ub.grant), line_place.eq(place)]
        words = arch.ub_width_bytes // arch.weight_port.width_bytes
        m.d.comb += [
            fifo.write.eq(beat.delivered | came),
            fifo.write_place.eq(Mux(came, line_place, beat.delivered_user)),
            fifo.write_data.eq(Mux(came, ub.data, beat.read_data.replicate(words))),
            self.engine.end.eq(fifo.write & fifo.write_place.last),
        ]
