"""The vector engine: parameter reads, taps, lanes, and the buffer of rows to be written.

Ref: docs/timing.md, section 7.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import bits_for

from systol_hw.arch import VECTOR_PIPELINE_CYCLES, Arch
from systol_hw.counters import UNIT_STATES
from systol_hw.faults import Unit
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.rtl.interfaces import (
    AccumulatorReadSignature,
    EngineSignature,
    UbReadSignature,
    UbWriteSignature,
    amount_bits,
)
from systol_hw.rtl.lanes import VectorLanes
from systol_hw.rtl.vector_walker import VectorWalker
from systol_hw.rtl.write_buffer import WriteBuffer

__all__ = ["VectorEngine"]

STATES = {state.name: state.code for state in UNIT_STATES[Unit.VECTOR]}


class VectorEngine(Component):
    """Performs `requantize`, `copy` and `fill`; other operations never reach it.

    A tap performed in cycle t keeps the next one out until t + S; its row, if it is the last tap
    of one, is written from t + S + 8 on.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    engine : In(EngineSignature(Unit.VECTOR, ...))
    ub_a, ub_b : Out(UbReadSignature)
        Taps; parameters.
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
        # cycle of occupation is on its way through them. Neither is cleared by a tap: that would
        # become a synchronous reset that depends on the register, which ABC9 takes for a loop.
        slot = arch.vector_slot_cycles
        bits = bits_for(slot - 1)
        free = (1 << bits) - slot
        occupied = Signal(bits, init=free)
        filled = Signal(VECTOR_PIPELINE_CYCLES)
        performed, tap, entering = Signal(), Signal(), Signal()
        m.d.comb += [
            tap.eq(performed & ~walker.parameters),
            entering.eq(tap | (occupied != free)),
        ]
        m.d.sync += filled.eq(Cat(entering, filled))
        with m.If(tap):
            m.d.sync += occupied.eq((1 << bits) - 1)
        with m.Elif(occupied != free):
            m.d.sync += occupied.eq(occupied - 1)

        admitted, granted = Signal(), Signal()
        with m.If(occupied != free):
            m.d.comb += engine.state.eq(STATES["busy"])
        with m.Elif(walker.parameters & filled.any()):
            m.d.comb += engine.state.eq(STATES["wait_lanes"])
        with m.Elif(walker.tap_last & (self.held_rows == arch.vector_write_rows)):
            m.d.comb += engine.state.eq(STATES["wait_buffer"])
        with m.Else():
            m.d.comb += [
                # What does not exist is not presented, and so refused, in its fault's cycle.
                admitted.eq(engine.active & ~walker.out_of_range),
                engine.state.eq(Mux(performed, STATES["busy"], STATES["wait_bank"])),
            ]
        with m.If(walker.parameters):
            m.d.comb += [self.ub_b.request.eq(admitted), granted.eq(self.ub_b.grant)]
        with m.Elif(~walker.accesses):
            m.d.comb += granted.eq(1)
        with m.Elif(walker.source_ub):
            m.d.comb += [self.ub_a.request.eq(admitted), granted.eq(self.ub_a.grant)]
        with m.Else():
            m.d.comb += [
                self.accumulators.request.eq(admitted),
                granted.eq(self.accumulators.grant),
            ]
        m.d.comb += [
            performed.eq(admitted & granted),
            self.ub_a.address.eq(walker.address),
            self.ub_a.length.eq(walker.channels),
            self.ub_b.address.eq(walker.parameter_address),
            self.ub_b.length.eq(walker.parameter_length),
            self.accumulators.row.eq(walker.address),
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(performed),
            engine.ready.eq(~filled.any()),
            engine.performed.eq(performed),
            engine.last.eq(walker.last),
            engine.end.eq(buffer.end),
            engine.address_fault.eq(walker.out_of_range),
            engine.amount_elements.eq(Mux(tap & walker.tap_last, walker.channels, 0)),
            engine.amount_saturations.eq(lanes.saturations),
            engine.amount_overflows.eq(lanes.overflows),
        ]

        first = walker.fields_of(engine.word)
        m.d.comb += [
            lanes.start.eq(engine.start),
            lanes.requantize.eq(first.opcode == OPERATION_BY_NAME["requantize"].opcode),
            lanes.fill.eq(first.opcode == OPERATION_BY_NAME["fill"].opcode),
            lanes.zero_point.eq(first.zero_point),
            lanes.low.eq(first.low),
            lanes.high.eq(first.high),
            lanes.parameter_data.eq(self.ub_b.data),
            lanes.tap.eq(tap),
            lanes.tap_first.eq(walker.tap_first),
            lanes.tap_last.eq(walker.tap_last),
            lanes.tap_none.eq(~walker.accesses),
            lanes.tap_ub.eq(walker.source_ub),
            lanes.ub_data.eq(self.ub_a.data),
            lanes.accumulator_data.eq(self.accumulators.data),
        ]
        m.d.sync += [
            lanes.parameter.eq(performed & walker.parameters),
            lanes.parameter_index.eq(walker.parameter_index),
            lanes.parameter_channels.eq(walker.channels),
        ]
        m.d.comb += [
            buffer.push.eq(tap & walker.tap_last),
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
