"""A nest of counting loops that knows a cycle ahead which loop steps next.

The engines walk their address loops with it: each loop level keeps its own base offsets and adds
its own step, so that no address needs a multiplication.
"""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

__all__ = ["LoopNest"]


class LoopNest(Component):
    """Loops, the innermost first, that begin at `start` and advance by one turn at `advance`.

    Parameters
    ----------
    widths : mapping of str to int
        Name of each loop, innermost first, and the width in bits of its number of turns.

    Members
    -------
    start : In(1)
        Begin in the next cycle with the first turn of every loop.
    advance : In(1)
        Go to the next turn in the next cycle; never together with `start`.
    counts : In(StructLayout)
        Turns of each loop, at least 1; looked at in `start` and whenever a loop begins again.
    steps : Out(StructLayout)
        The one loop that the next `advance` takes a step in; the loops inside it begin again.
        Nothing on the last turn of all.
    last : Out(StructLayout)
        The loops that are on their last turn (registered).
    next_last : Out(StructLayout)
        What `last` will be in the next cycle if this one has `start` or `advance`.
    done : Out(1)
        Every loop is on its last turn.
    """

    def __init__(self, widths: Mapping[str, int]):
        self.widths = dict(widths)
        flags = data.StructLayout({name: 1 for name in widths})
        super().__init__(
            {
                "start": In(1),
                "advance": In(1),
                "counts": In(data.StructLayout(self.widths)),
                "steps": Out(flags),
                "last": Out(flags),
                "next_last": Out(flags),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        inner_done: Any = Const(1)
        for name, width in self.widths.items():
            # Turns left, this one included; `last` is registered apart because a comparison of all
            # its bits would head every path through the walkers' adders.
            left = Signal(width, name=f"left_{name}")
            last = Signal(name=f"last_{name}")
            again = Signal(name=f"again_{name}")
            reached = Signal(name=f"reached_{name}")
            m.d.comb += [
                reached.eq(inner_done),
                again.eq(self.start | (reached & last)),
                self.last[name].eq(last),
                self.steps[name].eq(reached & ~last),
                self.next_last[name].eq(
                    Mux(again, self.counts[name] == 1, Mux(reached, left == 2, last))
                ),
            ]
            with m.If(self.start | self.advance):
                m.d.sync += last.eq(self.next_last[name])
                with m.If(again):
                    m.d.sync += left.eq(self.counts[name])
                with m.Elif(reached):
                    m.d.sync += left.eq(left - 1)
            inner_done = inner_done & last
        m.d.comb += self.done.eq(Cat(self.last[name] for name in self.widths).all())
        return m
