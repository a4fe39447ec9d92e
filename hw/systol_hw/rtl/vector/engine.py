"""The vector engine: prologue reads, taps, passes, lanes, and the buffer of rows to be written.

Ref: docs/timing.md, section 7.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import bits_for

from systol_hw.arch import VECTOR_PIPELINE_CYCLES, Arch
from systol_hw.rtl.contract.interfaces import (
    AccumulatorReadSignature,
    EngineSignature,
    UbReadSignature,
    UbWriteSignature,
    amount_bits,
)
from systol_hw.rtl.vector.lanes import VectorLanes
from systol_hw.rtl.vector.walker import VectorWalker
from systol_hw.rtl.vector.write_buffer import WriteBuffer
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

__all__ = ["VectorEngine"]

STATES = {state.name: state.code for state in UNIT_STATES[Unit.VECTOR]}


class VectorEngine(Component):
    """Performs every operation of the vector unit.

    An access or pass performed in cycle t keeps the next one out until t + S; the plane that it
    writes, if it does, is presented to the unified buffer from t + S + 8 on.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    engine : In(EngineSignature(Unit.VECTOR, ...))
    ub_a, ub_b : Out(UbReadSignature)
        Operand A; operand B, parameters and tables.
    accumulators : Out(AccumulatorReadSignature)
    ub_write : Out(UbWriteSignature)
    held_rows : Out
        Rows held (registered), for the peak of 8.4.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(Unit.VECTOR, amount_bits(arch, Unit.VECTOR))),
                "ub_a": Out(UbReadSignature(arch)),
                "ub_b": Out(UbReadSignature(arch)),
                "accumulators": Out(AccumulatorReadSignature(arch)),
                "ub_write": Out(UbWriteSignature(arch)),
                "held_rows": Out(bits_for(arch.vector_write_rows)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, engine = self.arch, self.engine
        m.submodules.walker = walker = VectorWalker(arch)
        m.submodules.lanes = lanes = VectorLanes(arch)
        m.submodules.buffer = buffer = WriteBuffer(arch)
        connect(m, buffer.ub_write, flipped(self.ub_write))

        # The entry counts down from all ones and is free at `free`; the lanes are empty once no
        # cycle of occupation is on its way through them. Neither is cleared by an access: that
        # would become a synchronous reset that depends on the register, which ABC9 takes for a
        # loop.
        slot = arch.vector_slot_cycles
        bits = bits_for(slot - 1)
        free = (1 << bits) - slot
        occupied = Signal(bits, init=free)
        filled = Signal(VECTOR_PIPELINE_CYCLES)
        performed, enters, entering = Signal(), Signal(), Signal()
        m.d.comb += [
            enters.eq(performed & ~walker.prologue),
            entering.eq(enters | (occupied != free)),
        ]
        m.d.sync += filled.eq(Cat(entering, filled))
        with m.If(enters):
            m.d.sync += occupied.eq((1 << bits) - 1)
        with m.Elif(occupied != free):
            m.d.sync += occupied.eq(occupied - 1)

        admitted = Signal()
        with m.If(occupied != free):
            m.d.comb += engine.state.eq(STATES["busy"])
        with m.Elif(walker.prologue & filled.any()):
            m.d.comb += engine.state.eq(STATES["wait_lanes"])
        with m.Elif(walker.writes & (self.held_rows == arch.vector_write_rows)):
            m.d.comb += engine.state.eq(STATES["wait_buffer"])
        with m.Else():
            m.d.comb += [
                # What does not exist is not presented, and so refused, in its fault's cycle.
                admitted.eq(engine.active & ~walker.out_of_range),
                engine.state.eq(Mux(performed, STATES["busy"], STATES["wait_bank"])),
            ]
        granted = self._reads(m, walker, admitted, performed)
        m.d.comb += [
            self.ub_a.address.eq(walker.address),
            self.ub_a.length.eq(walker.channels),
            self.ub_b.address.eq(walker.b_address),
            self.ub_b.length.eq(walker.b_length),
            self.accumulators.row.eq(walker.address),
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(performed),
            engine.ready.eq(~filled.any()),
            engine.performed.eq(performed),
            engine.last.eq(walker.last),
            engine.end.eq(buffer.end),
            engine.address_fault.eq(walker.out_of_range),
            engine.amount_elements.eq(Mux(performed & walker.ends_row, walker.channels, 0)),
            engine.amount_saturations.eq(lanes.saturations),
            engine.amount_overflows.eq(lanes.overflows),
        ]
        m.d.comb += [
            lanes.start.eq(engine.start),
            lanes.word.eq(engine.word),
            lanes.loads.word.eq(granted["accumulators"]),
            lanes.loads.a_low.eq(granted["a"] & ~walker.high_a),
            lanes.loads.a_high.eq(granted["a"] & walker.high_a),
            lanes.loads.b_low.eq(granted["b"] & ~walker.high),
            lanes.loads.b_high.eq(granted["b"] & walker.high),
            lanes.prologue.eq(performed & walker.prologue),
            lanes.prologue_index.eq(walker.prologue_index),
            lanes.access.eq(enters & ~walker.high),
            lanes.first.eq(walker.first),
            lanes.none.eq(walker.none),
            lanes.plane.eq(walker.plane),
            lanes.again.eq(walker.again),
            lanes.writes.eq(walker.writes),
            lanes.channels.eq(walker.channels),
            lanes.a_data.eq(self.ub_a.data),
            lanes.b_data.eq(self.ub_b.data),
            lanes.accumulator_data.eq(self.accumulators.data),
        ]
        m.d.comb += [
            buffer.push.eq(performed & walker.writes),
            buffer.push_address.eq(walker.out_address),
            buffer.push_length.eq(walker.channels),
            buffer.push_last.eq(walker.last),
            buffer.valid.eq(lanes.valid),
            buffer.beat.eq(lanes.beat),
            buffer.beat_last.eq(lanes.last),
            buffer.results.eq(lanes.results),
            self.held_rows.eq(buffer.held),
        ]
        return m

    def _reads(
        self, m: Module, walker: VectorWalker, admitted: Any, performed: Any
    ) -> dict[str, Any]:
        """Present the access' reads and drive `performed`; returns the reads granted now.

        Of A and B the one that is granted first is remembered and not presented again (7.3).
        """
        got_a, got_b = Signal(), Signal()
        grants = {name: Signal(name=f"granted_{name}") for name in ("a", "accumulators", "b")}
        satisfied_a, satisfied_b = Signal(), Signal()
        m.d.comb += [
            self.ub_a.request.eq(admitted & walker.reads_a & walker.source_ub & ~got_a),
            self.accumulators.request.eq(admitted & walker.reads_a & ~walker.source_ub),
            self.ub_b.request.eq(admitted & walker.reads_b & ~got_b),
            grants["a"].eq(self.ub_a.request & self.ub_a.grant),
            grants["accumulators"].eq(self.accumulators.request & self.accumulators.grant),
            grants["b"].eq(self.ub_b.request & self.ub_b.grant),
            satisfied_a.eq(~walker.reads_a | got_a | grants["a"] | grants["accumulators"]),
            satisfied_b.eq(~walker.reads_b | got_b | grants["b"]),
            performed.eq(admitted & satisfied_a & satisfied_b),
        ]
        m.d.sync += [
            got_a.eq((got_a | grants["a"]) & ~satisfied_b),
            got_b.eq((got_b | grants["b"]) & ~satisfied_a),
        ]
        return grants
