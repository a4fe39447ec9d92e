"""A fixed delay for wide words, for the array's skews: memory where registers would cost more."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from systol_hw.rtl.parts.block_ram import NO_COLLISIONS

__all__ = ["DelayLine"]


class DelayLine(Component):
    """Delays a word by a fixed number of cycles; the words live in a memory when that is smaller.

    Parameters
    ----------
    width : int
        Bits of a word.
    cycles : int
        Delay, at least 0.
    tick_bits : int
        Width of `tick`; 2**tick_bits >= cycles.

    Members
    -------
    tick : In(tick_bits)
        A counter that wraps and increments every cycle; lines share it.
    i, o : In(width), Out(width)
        `o` is `i` of `cycles` cycles ago. What it shows in the first `cycles` cycles is undefined.
    """

    def __init__(self, width: int, cycles: int, tick_bits: int):
        assert cycles <= 1 << tick_bits, "the shared counter must not wrap within the delay"
        self.cycles = cycles
        super().__init__({"tick": In(tick_bits), "i": In(width), "o": Out(width)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = len(self.i)
        if self.cycles <= 2:
            delayed = self.i
            for stage in range(self.cycles):
                register = Signal(width, reset_less=True, name=f"stage_{stage}")
                m.d.sync += register.eq(delayed)
                delayed = register
            m.d.comb += self.o.eq(delayed)
            return m
        address_bits = ceil_log2(self.cycles)
        m.submodules.memory = memory = Memory(
            shape=width, depth=1 << address_bits, init=[], attrs=NO_COLLISIONS
        )
        write = memory.write_port()
        read = memory.read_port()
        # The read port's register is the last cycle of the delay; cycles - 1 >= 2 keeps the two
        # addresses apart, so no rule about reading a word as it is written is relied on.
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(self.tick),
            write.data.eq(self.i),
            read.en.eq(1),
            read.addr.eq(self.tick - (self.cycles - 1)),
            self.o.eq(read.data),
        ]
        return m
