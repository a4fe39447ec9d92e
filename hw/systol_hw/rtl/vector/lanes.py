"""The vector unit's arithmetic, `vector_lanes` channels at a time.

Ref: docs/timing.md, 7.2 and 7.5. Of an access or pass performed in cycle t, beat s (channels
s*L .. s*L+L-1, L = `vector_lanes`, S beats) is in these cycles at::

    t + 1      its row is read from a buffer
    t + 2 + s  it is held; reduced with the row's earlier taps; a table's address
    t + 3 + s  + bias, or a * b, or the table's two knots
    t + 4 + s  two products
    t + 5 + s  their sum, or the lesser or greater
    t + 6 + s  shift by a multiple of 8
    t + 7 + s  shift by the rest, rounding, zero point, saturation, clip
    t + 8 + s  result

The last result is there in t + S + 7 and is written to a buffer that can be read in t + S + 8.
The high plane of a tap is only held; a pass sends the row's reduction through once more.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS
from systol_hw.rtl.vector.mode import ModeRegister
from systol_hw.rtl.vector.operand_hold import LOADS, OperandHold
from systol_hw.rtl.vector.parameters import PARAMETER_COUNT_BITS, VectorParameters, read_index_bits
from systol_hw.rtl.vector.reduction import RunningReduction
from systol_hw.rtl.vector.requantizer import REQUANTIZE_CYCLES, Requantizer
from systol_hw.rtl.vector.table_lookup import TableLookup, table_words

__all__ = ["VectorLanes"]

_PLANE_BITS = 2


class VectorLanes(Component):
    """From accesses to bytes, see the module's docstring.

    Members
    -------
    start : In(1), word : In(512)
        An instruction starts; the lanes are empty.
    loads : In
        Reads that were granted in this cycle, see `OperandHold`. Those of a tap come with it or
        before it, and not before the lanes can take it.
    prologue : In(1), prologue_index : In
        A parameter or table read is granted in this cycle: which one of the group's.
    access : In(1)
        A tap's last access or a pass is performed in this cycle; at most one in S cycles, behind
        a tap's high plane no sooner than S cycles either.
    first, none : In(1)
        It belongs to a row's first tap; the tap is outside the window.
    plane : In(2), again : In(1), writes : In(1)
        It writes this plane of the row; it is a pass, which has no tap.
    channels : In
        Live channels of its group.
    a_data, b_data, accumulator_data : In
        What was read, in the cycle after the grant.
    valid, beat, last : Out
        Beat `beat` of a row is on `results`; it is the row's last.
    results : Out(8 * L)
    saturations, overflows : Out
        Number to count in this cycle, over live channels.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        self.beats = arch.vector_slot_cycles
        width = 8 * arch.ub_width_bytes
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "loads": In(data.StructLayout({name: 1 for name in LOADS})),
                "prologue": In(1),
                "prologue_index": In(read_index_bits(arch)),
                "access": In(1),
                "first": In(1),
                "none": In(1),
                "plane": In(_PLANE_BITS),
                "again": In(1),
                "writes": In(1),
                "channels": In(bits_for(arch.columns)),
                "a_data": In(width),
                "b_data": In(width),
                "accumulator_data": In(data.ArrayLayout(32, arch.columns)),
                "valid": Out(1),
                "beat": Out(range(self.beats)),
                "last": Out(1),
                "results": Out(8 * arch.vector_lanes),
                "saturations": Out(bits_for(arch.columns)),
                "overflows": Out(bits_for(arch.columns)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes = self.arch.vector_lanes
        m.submodules.mode = mode_register = ModeRegister()
        mode = mode_register.mode
        m.d.comb += [mode_register.start.eq(self.start), mode_register.word.eq(self.word)]

        reductions, stages = self._reduce(m, mode)
        parameters = self._parameters(m, mode, stages)
        tables = self._tables(m, mode, reductions)
        results, saturated, wrapped = [], [], []
        for lane in range(lanes):
            requantizer = Requantizer()
            m.submodules[f"lane_{lane}"] = requantizer
            m.d.comb += [
                requantizer.mode.eq(mode),
                requantizer.value.eq(reductions[lane].reduced),
                requantizer.bias.eq(parameters.biases[lane]),
                requantizer.multiplier_a.eq(parameters.multipliers_a[lane]),
                requantizer.multiplier_b.eq(parameters.multipliers_b[lane]),
                requantizer.shift.eq(parameters.shifts[lane]),
                requantizer.knot.eq(tables[lane].knot),
                requantizer.difference.eq(tables[lane].difference),
                requantizer.fraction.eq(tables[lane].fraction),
                requantizer.high_plane.eq(mode.wide & stages[-1].plane[0]),
            ]
            results.append(requantizer.result)
            wrapped.append(requantizer.wrapped & stages[1].counted[lane])
            saturated.append(requantizer.saturated & stages[-1].counted[lane])
        m.d.comb += [
            self.results.eq(Cat(results)),
            self.valid.eq(stages[-1].valid),
            self.beat.eq(stages[-1].beat),
            self.last.eq(stages[-1].valid & (stages[-1].beat == self.beats - 1)),
        ]
        with m.If(stages[1].valid):
            m.d.comb += self.overflows.eq(sum(wrapped))
        with m.If(stages[-1].valid):
            m.d.comb += self.saturations.eq(sum(saturated))
        return m

    def _reduce(self, m: Module, mode: Any) -> tuple[list[RunningReduction], list[Any]]:
        """Hold the operands, cut them into beats, reduce them over the taps.

        Also returns what goes with a beat, stage by stage from the reduction's output on.
        """
        arch, lanes = self.arch, self.arch.vector_lanes
        flags = data.StructLayout(
            {"first": 1, "none": 1, "again": 1, "writes": 1, "plane": _PLANE_BITS}
        )
        access, access_flags = Signal(), Signal(flags)
        channels = Signal.like(self.channels)
        held_flags, counted = Signal(flags), Signal(arch.columns)
        beat, beat_valid = Signal(range(self.beats)), Signal()
        m.d.sync += [
            access.eq(self.access),
            access_flags.as_value().eq(
                Cat(self.first, self.none, self.again, self.writes, self.plane)
            ),
            channels.eq(self.channels),
        ]
        with m.If(access):
            counts = mode.counted & ~access_flags.again
            m.d.sync += [
                held_flags.eq(access_flags),
                counted.eq(Cat((channels > c) & counts for c in range(arch.columns))),
                beat.eq(0),
                beat_valid.eq(1),
            ]
        with m.Elif(beat == self.beats - 1):
            m.d.sync += beat_valid.eq(0)
        with m.Else():
            m.d.sync += beat.eq(beat + 1)

        m.submodules.hold = hold = OperandHold(arch)
        m.d.comb += [
            hold.clear.eq(self.start),
            hold.mode.eq(mode),
            hold.loads.eq(self.loads),
            hold.a_data.eq(self.a_data),
            hold.b_data.eq(self.b_data),
            hold.accumulator_data.eq(self.accumulator_data),
            hold.beat.eq(beat),
        ]
        reductions = []
        for lane in range(lanes):
            m.submodules[f"reduction_{lane}"] = reduction = RunningReduction(self.beats)
            m.d.comb += [
                reduction.total.eq(mode.sum),
                reduction.enable.eq(beat_valid),
                reduction.first.eq(held_flags.first),
                reduction.none.eq(held_flags.none),
                reduction.again.eq(held_flags.again),
                reduction.value.eq(hold.values[lane]),
            ]
            reductions.append(reduction)

        layout = data.StructLayout(
            {"valid": 1, "beat": beat.shape(), "plane": _PLANE_BITS, "counted": lanes}
        )
        stages = [Signal(layout, name=f"stage_{i}") for i in range(REQUANTIZE_CYCLES + 1)]
        beats = [counted[b * lanes : (b + 1) * lanes] for b in range(self.beats)]
        m.d.sync += [
            stages[0].valid.eq(beat_valid & held_flags.writes),
            stages[0].beat.eq(beat),
            stages[0].plane.eq(held_flags.plane),
            stages[0].counted.eq(Array(beats)[beat]),
        ]
        m.d.sync += [after.eq(before) for before, after in pairwise(stages)]
        return reductions, stages

    def _parameters(self, m: Module, mode: Any, stages: list[Any]) -> VectorParameters:
        m.submodules.parameters = parameters = VectorParameters(self.arch)
        parameter_count = Signal(PARAMETER_COUNT_BITS)
        with m.If(self.start):
            m.d.sync += parameter_count.eq(fields_of(self.word, "requantize").parameter_count)
        m.d.sync += [
            parameters.read.eq(self.prologue),
            parameters.read_index.eq(self.prologue_index),
        ]
        m.d.comb += [
            parameters.clear.eq(self.start),
            parameters.mode.eq(mode),
            parameters.parameter_count.eq(parameter_count),
            parameters.read_data.eq(self.b_data),
            parameters.tap.eq(self.access & ~self.again),
            parameters.tap_first.eq(self.first),
            parameters.tap_inside.eq(~self.none),
            parameters.bias_beat.eq(stages[0].beat),
            parameters.multiplier_beat.eq(stages[1].beat),
            parameters.shift_beat.eq(stages[3].beat),
            parameters.shift_plane.eq(Mux(mode.raw, stages[3].plane, 0)),
        ]
        return parameters

    def _tables(
        self, m: Module, mode: Any, reductions: list[RunningReduction]
    ) -> list[TableLookup]:
        # The words are written from registers, which spares the buffer's read path all lanes'
        # memories; the first look-up comes a cycle later.
        read, write = Signal(), Signal()
        read_index = Signal.like(self.prologue_index)
        index, words = Signal.like(read_index), Signal(64)
        m.d.sync += [
            read.eq(self.prologue),
            read_index.eq(self.prologue_index),
            write.eq(read & mode.table),
            index.eq(read_index),
            words.eq(table_words(self.b_data, mode.narrow_table)),
        ]
        tables = []
        for lane, reduction in enumerate(reductions):
            m.submodules[f"table_{lane}"] = table = TableLookup()
            m.d.comb += [
                table.narrow.eq(mode.narrow_table),
                table.write.eq(write),
                table.write_index.eq(index),
                table.write_data.eq(words),
                table.following.eq(reduction.following),
                table.value.eq(reduction.reduced),
            ]
            tables.append(table)
        return tables
