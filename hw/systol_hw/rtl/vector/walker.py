"""The vector engine's accesses in order: prologue reads, then taps and passes of each output row.

Ref: docs/timing.md, 7.1 and 7.6.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.vector.mode import is_operation
from systol_hw.rtl.vector.parameters import read_index_bits
from systol_hw.rtl.vector.prologue import VectorPrologue
from systol_hw.rtl.vector.window import TAP_LOOPS, VectorWindow
from systol_hw.rtl.walk.address_check import outside
from systol_hw.rtl.walk.loop_address import LoopAddress
from systol_hw.rtl.walk.loop_nest import LoopNest

__all__ = ["VectorWalker"]

_LOOPS = {"phase": 3, "kx": 8, "ky": 8, "x": 16, "y": 16, "n": 12}
"""The phases of a tap are its accesses and, behind the last tap of a row, the passes."""
_WINDOWED = ("requantize", "copy", "fill")


class VectorWalker(Component):
    """The current access or pass of the active instruction.

    Members
    -------
    start, word, advance
        Load an instruction; go to the next access.
    channels
        Live channels of the present group.
    prologue, prologue_index
        The access is a parameter or table read on port B; which of the group's.
    reads_a, source_ub, address
        It reads A; from the unified buffer or the accumulators; byte address or row (mod 2**32).
    reads_b, b_address, b_length
        It reads B, or it is a prologue read.
    high
        It is the first of two accesses of a tap: the high plane.
    high_a
        What it reads of A are high bytes; so are, for a table, operands of one byte.
    first, none
        It is of an output row's first tap; of a tap outside the window.
    again, plane
        It is a pass; the number of the plane that it writes.
    writes, out_address
        It writes a plane of the output row; the first byte.
    ends_row
        It is the last access of an output row's last tap.
    last
        The instruction's last access.
    out_of_range
        What is to be read or written does not exist.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "channels": Out(bits_for(arch.columns)),
                "prologue": Out(1),
                "prologue_index": Out(read_index_bits(arch)),
                "reads_a": Out(1),
                "source_ub": Out(1),
                "address": Out(ADDRESS_BITS),
                "reads_b": Out(1),
                "b_address": Out(ADDRESS_BITS),
                "b_length": Out(bits_for(arch.ub_width_bytes)),
                "high": Out(1),
                "high_a": Out(1),
                "first": Out(1),
                "none": Out(1),
                "again": Out(1),
                "plane": Out(2),
                "writes": Out(1),
                "out_address": Out(ADDRESS_BITS),
                "ends_row": Out(1),
                "last": Out(1),
                "out_of_range": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        kept, current = Signal(INSTRUCTION_BITS), Signal(INSTRUCTION_BITS)
        with m.If(self.start):
            m.d.sync += kept.eq(self.word)
        m.d.comb += current.eq(Mux(self.start, self.word, kept))
        now = fields_of(current, "requantize")
        windowed = is_operation(now, *_WINDOWED)
        binary = is_operation(now, "binary")
        two_bytes_a, two_bytes_b = Signal(), Signal()
        m.d.comb += [
            two_bytes_a.eq(now.a_width & (now.source_ub | ~windowed)),
            two_bytes_b.eq(binary & fields_of(current, "binary").b_width),
        ]
        two_accesses = two_bytes_a | two_bytes_b

        # `step` goes from access to access, `move` from tap to tap.
        m.submodules.nest = nest = LoopNest(_LOOPS)
        turns = nest.steps
        step, move = Signal(), Signal()
        m.d.comb += [
            step.eq(self.advance & ~self.prologue),
            move.eq(step & ~turns.phase),
            nest.start.eq(self.start),
            nest.advance.eq(step),
        ]
        passes = Mux(nest.next_last.kx & nest.next_last.ky, Mux(now.width[1], 3, now.width[0]), 0)
        m.d.comb += nest.counts.phase.eq(1 + two_accesses + passes)
        for name in TAP_LOOPS:
            count = now[f"{name}_count"]
            # The other operations have other fields where these have the taps' counts.
            m.d.comb += nest.counts[name].eq(
                Mux(windowed, count, 1) if name in ("kx", "ky") else count
            )
        self._phase(m, step, turns, two_accesses)

        m.submodules.window = window = VectorWindow()
        m.d.comb += [window.start.eq(self.start), window.word.eq(current), window.move.eq(move)]
        m.d.comb += [window.turns[name].eq(turns[name]) for name in TAP_LOOPS]
        with m.If(self.start):
            m.d.sync += self.first.eq(1)
        with m.Elif(move):
            m.d.sync += self.first.eq(~(turns.kx | turns.ky))

        fill = is_operation(now, "fill")
        last_tap = nest.last.kx & nest.last.ky & ~self.prologue
        m.d.comb += [
            self.source_ub.eq(now.source_ub | ~windowed),
            self.none.eq(windowed & ~fill & ~window.inside),
            self.reads_a.eq(
                ~self.prologue & ~self.again & ~self.none & ~fill & (~self.high | two_bytes_a)
            ),
            self.high_a.eq(self.high | (is_operation(now, "table") & ~two_bytes_a)),
            self.writes.eq(last_tap & ~self.high),
            self.ends_row.eq(self.writes & ~self.again),
            self.last.eq(~self.prologue & nest.done),
        ]
        reads_b = binary & ~self.again & (~self.high | two_bytes_b)
        self._prologue(m, current, step & turns.n, nest.next_last.n, reads_b)
        self._addresses(m, kept, nest, step, two_bytes_a, two_bytes_b)
        self._ranges(m)
        return m

    def _phase(self, m: Module, step: Any, turns: Any, two_accesses: Any) -> None:
        """Which access of its tap, or which pass of its row, the present one is."""
        with m.If(self.start | (step & ~turns.phase)):
            m.d.sync += [self.high.eq(two_accesses), self.again.eq(0), self.plane.eq(0)]
        with m.Elif(step):
            m.d.sync += self.high.eq(0)
            with m.If(~self.high):
                m.d.sync += [self.again.eq(1), self.plane.eq(self.plane + 1)]

    def _prologue(
        self, m: Module, current: Any, next_group: Any, next_last: Any, reads_b: Any
    ) -> None:
        """Groups, and the reads before their rows, which share port B with operand B."""
        fields = fields_of(current, "requantize")
        group = self.start | next_group
        channels = Signal.like(self.channels)
        m.d.comb += channels.eq(Mux(next_last, fields.n_last, self.arch.columns))
        with m.If(group):
            m.d.sync += self.channels.eq(channels)
        m.submodules.prologue = prologue = VectorPrologue(self.arch)
        m.submodules.b_address = b = LoopAddress(("phase", "x", "y", "n"))
        m.d.comb += [
            prologue.start.eq(self.start),
            prologue.word.eq(current),
            prologue.group.eq(group),
            prologue.channels.eq(channels),
            prologue.advance.eq(self.advance & self.prologue),
            self.prologue.eq(prologue.reading),
            self.prologue_index.eq(prologue.index),
            self.reads_b.eq(self.prologue | reads_b),
            self.b_address.eq(Mux(self.prologue, prologue.address, b.address)),
            self.b_length.eq(Mux(self.prologue, prologue.length, self.channels)),
        ]

    def _addresses(
        self, m: Module, kept: Any, nest: Any, step: Any, two_bytes_a: Any, two_bytes_b: Any
    ) -> None:
        """Operands stand at their high plane when a tap begins, outputs at their low one."""
        turns, unit = nest.steps, ceil_log2(PLANE_UNIT_BYTES)
        m.submodules.a_address = a = LoopAddress(tuple(_LOOPS))
        m.submodules.out_address = out = LoopAddress(("phase", "x", "y", "n"))
        walks = (
            ("a", "requantize", a, two_bytes_a),
            ("b", "binary", m.submodules.b_address, two_bytes_b),
            ("out", "requantize", out, 1),
        )
        for name, operation, walk, planes in walks:
            new, old = fields_of(self.word, operation), fields_of(kept, operation)
            first, after = (
                Mux(planes, fields[f"{name}_plane_step"], 0) << unit for fields in (new, old)
            )
            m.d.comb += [
                walk.start.eq(self.start),
                walk.first.eq(new[f"{name}_address"]),
                walk.first_offset.eq(0 if name == "out" else first),
                walk.steps.phase.eq(after if name == "out" else -after),
                walk.move.eq(step),
            ]
            for loop in walk.loops:
                m.d.comb += walk.turns[loop].eq(turns[loop])
                if loop != "phase":
                    m.d.comb += walk.steps[loop].eq(old[f"{name}_{loop}_step"])
        m.d.comb += [
            # The output stands still until its low plane is written.
            out.move.eq(step & ~turns.kx & ~turns.ky & (self.writes | ~turns.phase)),
            self.address.eq(a.address),
            self.out_address.eq(out.address),
        ]

    def _ranges(self, m: Module) -> None:
        """5.5, for the access that is performed next."""
        arch = self.arch
        size = arch.ub_bytes
        a_outside = Mux(
            self.source_ub,
            outside(self.address, self.channels, size),
            self.address[ceil_log2(arch.accumulator_rows) :].any(),
        )
        m.d.comb += self.out_of_range.eq(
            (self.reads_a & a_outside)
            | (self.reads_b & outside(self.b_address, self.b_length, size))
            | (self.writes & outside(self.out_address, self.channels, size))
        )
