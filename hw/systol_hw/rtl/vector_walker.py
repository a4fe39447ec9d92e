"""The vector engine's accesses in order: parameter reads, then the taps of each output row.

Ref: docs/timing.md, 7.1 and 7.6.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.rtl.decoder import fields_of
from systol_hw.rtl.interfaces import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.loops import LoopNest
from systol_hw.rtl.ranges import outside

__all__ = ["VectorWalker"]

_LOOPS = {"kx": 8, "ky": 8, "x": 16, "y": 16, "n": 12}
_LINE_BITS = 24
"""Bits of a signed input row or column number: 2**7 + 65535*63 + 255*15 at the most."""


class VectorWalker(Component):
    """The current access of the active instruction, its window test done a cycle ahead.

    Members
    -------
    start, word, advance
        Load an instruction; go to the next access.
    channels
        Live channels of the present group.
    parameters
        The access is a parameter read, not a tap.
    parameter_index, parameter_address, parameter_length
        Which of the group's parameter reads, and its bytes.
    accesses, source_ub, address
        The tap makes an access; its source, and byte address or accumulator row (modulo 2**32).
    tap_first, tap_last
        First and last tap of an output row; both low for a parameter read.
    out_address
        First byte of the output row.
    last
        The instruction's last access.
    out_of_range
        What is to be read, or the output of a row's last tap, does not exist.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        self.channels_per_read = arch.ub_width_bytes // PARAMETER_BYTES
        reads = -(-arch.columns // self.channels_per_read)
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "channels": Out(bits_for(arch.columns)),
                "parameters": Out(1),
                "parameter_index": Out(range(reads)),
                "parameter_address": Out(ADDRESS_BITS),
                "parameter_length": Out(bits_for(arch.ub_width_bytes)),
                "accesses": Out(1),
                "source_ub": Out(1),
                "address": Out(ADDRESS_BITS),
                "tap_first": Out(1),
                "tap_last": Out(1),
                "out_address": Out(ADDRESS_BITS),
                "last": Out(1),
                "out_of_range": Out(1),
            }
        )

    @staticmethod
    def fields_of(word: Any) -> data.View:
        """The fields of `requantize`, whose places `copy` and `fill` share."""
        return fields_of(word, "requantize")

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        kept = Signal(INSTRUCTION_BITS)
        with m.If(self.start):
            m.d.sync += kept.eq(self.word)
        new, old = self.fields_of(self.word), self.fields_of(kept)
        current = Signal(INSTRUCTION_BITS)
        m.d.comb += current.eq(Mux(self.start, self.word, kept))
        now = self.fields_of(current)

        tap_advance = Signal()
        m.submodules.nest = nest = LoopNest(_LOOPS)
        m.d.comb += [
            tap_advance.eq(self.advance & ~self.parameters),
            nest.start.eq(self.start),
            nest.advance.eq(tap_advance),
        ]
        for name in _LOOPS:
            m.d.comb += nest.counts[name].eq(now[f"{name}_count"])
        steps = nest.steps

        group = Signal()  # a group begins in the next cycle
        channels = Signal.like(self.channels)
        m.d.comb += [
            group.eq(self.start | (tap_advance & steps.n)),
            channels.eq(Mux(nest.next_last.n, now.n_last, arch.columns)),
        ]
        with m.If(group):
            m.d.sync += self.channels.eq(channels)
        self._parameters(m, now, group, channels)
        self._address(m, new, old, steps, tap_advance)
        self._output(m, new, old, steps, tap_advance)
        self._window(m, now, steps, tap_advance)

        with m.If(self.start):
            m.d.sync += self.tap_first.eq(1)
        with m.Elif(tap_advance):
            m.d.sync += self.tap_first.eq(~(steps.kx | steps.ky))
        m.d.comb += [
            self.source_ub.eq(old.source_ub),
            self.tap_last.eq(~self.parameters & nest.last.kx & nest.last.ky),
            self.last.eq(~self.parameters & nest.done),
        ]
        self._ranges(m)
        return m

    def _parameters(self, m: Module, now: Any, group: Any, channels: Any) -> None:
        """Parameter reads of a group: W bytes each, the last only as long as needed."""
        arch = self.arch
        group_address, next_group = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        left = Signal.like(self.channels)
        ends = Signal()
        m.d.comb += [
            next_group.eq(
                Mux(
                    self.start,
                    now.parameter_address,
                    group_address + PARAMETER_BYTES * arch.columns,
                )
            ),
            ends.eq(left <= self.channels_per_read),
            self.parameter_length.eq(
                Mux(ends, PARAMETER_BYTES * left, arch.ub_width_bytes)
            ),
        ]
        with m.If(group):
            m.d.sync += [
                self.parameters.eq(now.opcode == OPERATION_BY_NAME["requantize"].opcode),
                self.parameter_index.eq(0),
                self.parameter_address.eq(next_group),
                group_address.eq(next_group),
                left.eq(channels),
            ]
        with m.Elif(self.advance & self.parameters):
            m.d.sync += [
                self.parameters.eq(~ends),
                self.parameter_index.eq(self.parameter_index + 1),
                self.parameter_address.eq(self.parameter_address + arch.ub_width_bytes),
                left.eq(left - self.channels_per_read),
            ]

    def _address(self, m: Module, new: Any, old: Any, steps: Any, advance: Any) -> None:
        """Operand A: each loop keeps the address at which it began its present turn."""
        bases = {name: Signal(ADDRESS_BITS, name=f"base_{name}") for name in ("ky", "x", "y", "n")}
        begins = {"kx": self.address, **bases}
        base, step = Signal(ADDRESS_BITS), Signal(signed(24))
        chain = m.If
        for name in _LOOPS:
            with chain(steps[name]):
                m.d.comb += [base.eq(begins[name]), step.eq(old[f"a_{name}_step"])]
            chain = m.Elif
        following = Signal(ADDRESS_BITS)
        m.d.comb += following.eq(Mux(self.start, new.a_address, base + step))
        with m.If(self.start | advance):
            m.d.sync += self.address.eq(following)
        self._keep_bases(m, bases, following, steps, advance)

    def _output(self, m: Module, new: Any, old: Any, steps: Any, advance: Any) -> None:
        """The output row's address, which stands still over its taps."""
        bases = {name: Signal(ADDRESS_BITS, name=f"out_base_{name}") for name in ("y", "n")}
        begins = {"x": self.out_address, **bases}
        base, step = Signal(ADDRESS_BITS), Signal(signed(24))
        chain = m.If
        for name in begins:
            with chain(steps[name]):
                m.d.comb += [base.eq(begins[name]), step.eq(old[f"out_{name}_step"])]
            chain = m.Elif
        following = Signal(ADDRESS_BITS)
        m.d.comb += following.eq(Mux(self.start, new.out_address, base + step))
        with m.If(self.start | (advance & ~steps.kx & ~steps.ky)):
            m.d.sync += self.out_address.eq(following)
        self._keep_bases(m, bases, following, steps, advance)

    def _keep_bases(
        self, m: Module, bases: dict[str, Signal], following: Any, steps: Any, advance: Any
    ) -> None:
        """A step of a loop begins it, and all loops inside it, at `following`."""
        names = list(_LOOPS)
        for name, base in bases.items():
            outer = steps[name]
            for further in names[names.index(name) + 1 :]:
                outer = outer | steps[further]
            with m.If(self.start | (advance & outer)):
                m.d.sync += base.eq(following)

    def _window(self, m: Module, now: Any, steps: Any, advance: Any) -> None:
        """Register whether the next tap is inside the window and so makes an access."""

        def coordinate(name: str) -> Any:
            """The next tap's input row or column; `name` is y or x."""
            tap, start = Signal(signed(_LINE_BITS), name=name), now[f"{name}_start"]
            first = Signal(signed(_LINE_BITS), name=f"first_{name}")
            following = Signal(signed(_LINE_BITS), name=f"next_{name}")
            # What begins the coordinate anew, and what leaves its output row or column alone.
            anew = steps.n | (steps.y if name == "x" else 0)
            same = steps.kx | steps.ky | (steps.x if name == "y" else 0)
            with m.If(self.start | anew):
                m.d.comb += following.eq(start)
            with m.Elif(steps[f"k{name}"]):
                m.d.comb += following.eq(tap + now[f"k{name}_step"])
            with m.Elif(steps[name]):
                m.d.comb += following.eq(first + now[f"{name}_step"])
            with m.Elif(steps.kx):
                m.d.comb += following.eq(tap)
            with m.Else():
                m.d.comb += following.eq(first)
            with m.If(self.start | advance):
                m.d.sync += tap.eq(following)
                with m.If(self.start | ~same):
                    m.d.sync += first.eq(following)
            return ~following[-1] & (following < now[f"{name}_limit"])

        inside = coordinate("y") & coordinate("x")
        reads = now.opcode != OPERATION_BY_NAME["fill"].opcode
        with m.If(self.start | advance):
            m.d.sync += self.accesses.eq(inside & reads)

    def _ranges(self, m: Module) -> None:
        """5.5, for the access that is performed next."""
        arch = self.arch
        size = arch.ub_bytes
        read_outside = Signal()
        with m.If(self.parameters):
            m.d.comb += read_outside.eq(
                outside(self.parameter_address, self.parameter_length, size)
            )
        with m.Elif(self.source_ub):
            m.d.comb += read_outside.eq(
                self.accesses & outside(self.address, self.channels, size)
            )
        with m.Else():
            m.d.comb += read_outside.eq(
                self.accesses & self.address[ceil_log2(arch.accumulator_rows) :].any()
            )
        m.d.comb += self.out_of_range.eq(
            read_outside | (self.tap_last & outside(self.out_address, self.channels, size))
        )
