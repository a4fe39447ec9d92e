"""Maximum or sum over the taps of a window, for one vector lane."""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.parts.convert_once import converted_once
from systol_hw.rtl.vector.operand_hold import VALUE_BITS

__all__ = ["RunningReduction"]


class RunningReduction(Component):
    """Reduces the taps of a row; beats come S at a time and in order.

    A row of one tap keeps all bits of its value; a reduction is one of 32-bit numbers, signed for
    the maximum, wrapping for the sum.

    Parameters
    ----------
    beats : int
        S.

    Members
    -------
    total : In(1)
        The sum, not the maximum; constant while a row is under way.
    enable : In(1)
        A beat comes in.
    first : In(1)
        It belongs to the row's first tap.
    none : In(1)
        The tap is outside the window and counts for nothing.
    again : In(1)
        Nothing is added: the row's reduction is wanted once more.
    value : In(VALUE_BITS)
    following : Out(VALUE_BITS)
        Over this channel's taps up to the present beat; combinational, only while `enable`.
    reduced : Out(VALUE_BITS)
        The same one cycle later.
    """

    total: In(1)
    enable: In(1)
    first: In(1)
    none: In(1)
    again: In(1)
    value: In(VALUE_BITS)
    following: Out(VALUE_BITS)
    reduced: Out(VALUE_BITS)

    def __init__(self, beats: int):
        self.beats = beats
        super().__init__()

    @converted_once("beats")
    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The beat's channel was last seen S beats ago.
        history = [
            Signal(VALUE_BITS, reset_less=True, name=f"beat_{i}") for i in range(self.beats)
        ]
        before = history[-1]
        number, number_before = self.value[:32], before[:32]
        greater, keep, take, add = Signal(), Signal(), Signal(), Signal()
        empty = ~self.again & self.none & self.first
        m.d.comb += [
            greater.eq(number.as_signed() > number_before.as_signed()),
            # Whatever of these is 1 is or-ed: cheaper than a selection among all of them.
            keep.eq(self.again | (~self.first & (self.none | (~self.total & ~greater)))),
            take.eq(~self.again & ~self.none & (self.first | (~self.total & greater))),
            add.eq(~self.again & ~self.none & ~self.first & self.total),
            self.following.eq(
                Mux(keep, before, 0)
                | Mux(take, self.value, 0)
                | Mux(add, (number_before + number)[:32], 0)
                # -2**31 is the maximum over no tap, 0 the sum.
                | Cat(Const(0, 31), empty & ~self.total)
            ),
        ]
        with m.If(self.enable):
            m.d.sync += [later.eq(now) for now, later in pairwise(history)]
            m.d.sync += history[0].eq(self.following)
        m.d.comb += self.reduced.eq(history[0])
        return m
