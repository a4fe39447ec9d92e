"""Fetch: instructions from weight memory into a small buffer (docs/timing.md, 2.1 and 2.2)."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import INSTRUCTION_BYTES, Arch
from systol_hw.rtl.contract.interfaces import BeatSignature
from systol_hw.rtl.contract.widths import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.parts.head_queue import next_slot
from systol_hw.tables.registers import CODE_LENGTH_BITS

__all__ = ["FETCH_USER_BITS", "Fetch"]

FETCH_USER_BITS = 1
"""Bits that fetch wants back with a delivery: deliveries are in order, so none is used."""


class Fetch(Component):
    """Reads the code in order, at most `fetch_buffer_instructions` ahead of dispatch.

    Members
    -------
    code_address, code_length : In
        Configuration registers; they hold still during a run.
    beat : Out(BeatSignature)
        Reads of whole beats from the weight port.
    word : Out(512), visible : Out(1)
        The next instruction in order, and whether it has arrived.
    pc : Out(26)
        Its index: the number of instructions that have left control.
    advance : In(1)
        The instruction leaves control in this cycle.
    """

    def __init__(self, arch: Arch):
        self.width_bytes = arch.weight_port.width_bytes
        self.depth = arch.fetch_buffer_instructions
        self.burst_bytes = min(arch.burst_bytes, INSTRUCTION_BYTES)
        super().__init__(
            {
                "code_address": In(ADDRESS_BITS),
                "code_length": In(CODE_LENGTH_BITS),
                "beat": Out(
                    BeatSignature(
                        width_bytes=self.width_bytes, user_bits=FETCH_USER_BITS, write=False
                    )
                ),
                "word": Out(INSTRUCTION_BITS),
                "visible": Out(1),
                "pc": Out(CODE_LENGTH_BITS),
                "advance": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beats = INSTRUCTION_BYTES // self.width_bytes
        slot_bits = ceil_log2(self.depth)
        beat_bits = ceil_log2(beats)

        # Instructions that have not left control: those issued to their last beat, those arrived.
        ahead = Signal(bits_for(self.depth))
        arrived = Signal(bits_for(self.depth))
        issued = Signal(CODE_LENGTH_BITS)
        issue_beat = Signal(beat_bits)
        first = issue_beat == 0
        last = issue_beat == beats - 1
        offset = Signal(ceil_log2(INSTRUCTION_BYTES))
        m.d.comb += [
            offset.eq(issue_beat * self.width_bytes),
            # The limit holds for an instruction's first beat; the others follow it.
            self.beat.request.eq(
                (issued != self.code_length) & (~first | (ahead != self.depth))
            ),
            self.beat.address.eq(self.code_address + (issued << 6) + offset),
            self.beat.burst_last.eq(
                ((offset + self.width_bytes) & (self.burst_bytes - 1)) == 0
            ),
        ]
        complete = Signal()
        m.d.comb += complete.eq(self.beat.grant & self.beat.request & last)
        with m.If(self.beat.grant & self.beat.request):
            m.d.sync += issue_beat.eq(issue_beat + 1)
            with m.If(last):
                m.d.sync += issued.eq(issued + 1)
        m.d.sync += ahead.eq(ahead + complete - self.advance)

        m.submodules.buffer = memory = Memory(shape=INSTRUCTION_BITS, depth=self.depth, init=[])
        write = memory.write_port(granularity=8 * self.width_bytes)
        # Dispatch decides in the cycle after the last delivery, so the head is read in place.
        read = memory.read_port(domain="comb")
        write_slot, write_beat = Signal(slot_bits), Signal(beat_bits)
        read_slot = Signal(slot_bits)
        filled = Signal()
        m.d.comb += [
            write.addr.eq(write_slot),
            write.data.eq(self.beat.read_data.replicate(beats)),
            write.en.eq(self.beat.delivered << write_beat),
            filled.eq(self.beat.delivered & (write_beat == beats - 1)),
            read.addr.eq(read_slot),
            self.word.eq(read.data),
            self.visible.eq(arrived != 0),
        ]
        with m.If(self.beat.delivered):
            m.d.sync += write_beat.eq(write_beat + 1)
        with m.If(filled):
            m.d.sync += write_slot.eq(next_slot(write_slot, self.depth))
        m.d.sync += arrived.eq(arrived + filled - self.advance)
        with m.If(self.advance):
            m.d.sync += [read_slot.eq(next_slot(read_slot, self.depth)), self.pc.eq(self.pc + 1)]
        return m

