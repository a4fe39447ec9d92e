"""Planes of rows between the lanes and the unified buffer (docs/timing.md, 7.4 and 7.5)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.rtl.contract.interfaces import UbWriteSignature

__all__ = ["WriteBuffer"]


class WriteBuffer(Component):
    """A queue whose entries are made before their bytes come.

    Both memories are read without a register: a row's last bytes, written in cycle t + S + 7, are
    presented in t + S + 8.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    push, push_address, push_length, push_last : In
        What writes a plane of a row is performed: where it will be written, and whether it is its
        instruction's last. Only while `held` is less than `vector_write_rows`.
    valid, beat, beat_last, results : In
        Beats of the pushed rows' bytes, row by row.
    ub_write : Out(UbWriteSignature)
    end : Out(1)
        The write of an instruction's last row is granted in this cycle.
    held : Out
        Rows pushed and not yet written (registered).
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        self.beats = arch.vector_slot_cycles
        super().__init__(
            {
                "push": In(1),
                "push_address": In(bits_for(arch.ub_bytes - 1)),
                "push_length": In(bits_for(arch.columns)),
                "push_last": In(1),
                "valid": In(1),
                "beat": In(range(self.beats)),
                "beat_last": In(1),
                "results": In(8 * arch.vector_lanes),
                "ub_write": Out(UbWriteSignature(arch)),
                "end": Out(1),
                "held": Out(bits_for(arch.vector_write_rows)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth = self.arch.vector_write_rows
        entry = data.StructLayout(
            {"address": self.push_address.shape(), "length": self.push_length.shape(), "last": 1}
        )
        m.submodules.entries = entries = Memory(shape=entry, depth=depth, init=[])
        entry_write, entry_read = entries.write_port(), entries.read_port(domain="comb")
        beat_bits = 8 * self.arch.vector_lanes
        m.submodules.rows = rows = Memory(shape=self.beats * beat_bits, depth=depth, init=[])
        row_write = rows.write_port(granularity=beat_bits)
        row_read = rows.read_port(domain="comb")

        def pointer(name: str, step: Any) -> Signal:
            slot = Signal(range(depth), name=name)
            with m.If(step):
                m.d.sync += slot.eq(Mux(slot == depth - 1, 0, slot + 1))
            return slot

        completed, written = Signal(), Signal()
        m.d.comb += [
            completed.eq(self.valid & self.beat_last),
            written.eq(self.ub_write.request & self.ub_write.grant),
        ]
        pushed, filled, head = (
            pointer("pushed", self.push),
            pointer("filled", completed),
            pointer("head", written),
        )
        complete = Signal(bits_for(depth))
        m.d.sync += [
            self.held.eq(self.held + self.push - written),
            complete.eq(complete + completed - written),
        ]
        m.d.comb += [
            entry_write.en.eq(self.push),
            entry_write.addr.eq(pushed),
            Cat(entry_write.data.address, entry_write.data.length, entry_write.data.last).eq(
                Cat(self.push_address, self.push_length, self.push_last)
            ),
            entry_read.addr.eq(head),
            row_write.addr.eq(filled),
            row_write.data.eq(self.results.replicate(self.beats)),
            row_read.addr.eq(head),
            self.ub_write.request.eq(complete != 0),
            self.ub_write.address.eq(entry_read.data.address),
            self.ub_write.length.eq(entry_read.data.length),
            self.ub_write.data.eq(row_read.data),
            self.end.eq(written & entry_read.data.last),
        ]
        for beat in range(self.beats):
            m.d.comb += row_write.en[beat].eq(self.valid & (self.beat == beat))
        return m
