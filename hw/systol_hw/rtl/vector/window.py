"""Whether a tap lies inside the vector unit's window (the table's `requantize`)."""

from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS

__all__ = ["TAP_LOOPS", "VectorWindow"]

TAP_LOOPS = ("kx", "ky", "x", "y", "n")
"""Loops of a vector instruction over its taps, innermost first."""

_LINE_BITS = 24
"""Bits of a signed input row or column number: 2**7 + 65535*63 + 255*15 at the most."""


class VectorWindow(Component):
    """Follows the taps, a cycle ahead.

    Members
    -------
    start, word
        An instruction starts; `word` is it then, and the active instruction at other times.
    move, turns
        Go to the next tap; the loop that steps, by the names of `TAP_LOOPS`.
    inside
        The present tap is inside (registered).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "move": In(1),
                "turns": In(data.StructLayout({name: 1 for name in TAP_LOOPS})),
                "inside": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        now, turns = fields_of(self.word, "requantize"), self.turns

        def coordinate(name: str) -> Any:
            """The next tap's input row or column is inside; `name` is y or x."""
            tap, start = Signal(signed(_LINE_BITS), name=name), now[f"{name}_start"]
            first = Signal(signed(_LINE_BITS), name=f"first_{name}")
            following = Signal(signed(_LINE_BITS), name=f"next_{name}")
            # What begins the coordinate anew, and what leaves its output row or column alone.
            anew = turns.n | (turns.y if name == "x" else 0)
            same = turns.kx | turns.ky | (turns.x if name == "y" else 0)
            with m.If(self.start | anew):
                m.d.comb += following.eq(start)
            with m.Elif(turns[f"k{name}"]):
                m.d.comb += following.eq(tap + now[f"k{name}_step"])
            with m.Elif(turns[name]):
                m.d.comb += following.eq(first + now[f"{name}_step"])
            with m.Elif(turns.kx):
                m.d.comb += following.eq(tap)
            with m.Else():
                m.d.comb += following.eq(first)
            with m.If(self.start | self.move):
                m.d.sync += tap.eq(following)
                with m.If(self.start | ~same):
                    m.d.sync += first.eq(following)
            return ~following[-1] & (following < now[f"{name}_limit"])

        inside = coordinate("y") & coordinate("x")
        with m.If(self.start | self.move):
            m.d.sync += self.inside.eq(inside)
        return m
