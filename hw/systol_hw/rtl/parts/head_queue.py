"""A queue in distributed memory whose head can be read in the cycle in which it becomes head."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

__all__ = ["HeadQueue", "next_slot"]


def next_slot(slot: Signal, depth: int) -> Any:
    """The slot after `slot` in a ring of `depth` slots."""
    if depth == 1 << len(slot):
        return (slot + 1)[: len(slot)]
    return Mux(slot == depth - 1, 0, slot + 1)


class HeadQueue(Component):
    """First in, first out; words live in a memory that is read without a clock.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Words that it holds; need not be a power of two.

    Members
    -------
    push, word : In
        Appends `word`; only while `level` is less than `depth`. It counts from the next cycle on.
    pop : In(1)
        Removes the head; only while `level` is not 0.
    head : Out
        The oldest word, undefined while `level` is 0.
    level : Out
        Registered number of words.
    """

    def __init__(self, width: int, depth: int):
        self.depth = depth
        super().__init__(
            {
                "push": In(1),
                "word": In(width),
                "pop": In(1),
                "head": Out(width),
                "level": Out(bits_for(depth)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=len(self.word), depth=self.depth, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        write_slot = Signal(ceil_log2(self.depth))
        read_slot = Signal(ceil_log2(self.depth))
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(write_slot),
            write.data.eq(self.word),
            read.addr.eq(read_slot),
            self.head.eq(read.data),
        ]
        with m.If(self.push):
            m.d.sync += write_slot.eq(next_slot(write_slot, self.depth))
        with m.If(self.pop):
            m.d.sync += read_slot.eq(next_slot(read_slot, self.depth))
        m.d.sync += self.level.eq(self.level + self.push - self.pop)
        return m
