"""An address that follows a nest of loops by additions alone."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.contract.widths import ADDRESS_BITS

__all__ = ["STEP_BITS", "LoopAddress"]

STEP_BITS = 24


class LoopAddress(Component):
    """Each loop keeps the address at which it began its present turn and steps from there.

    The innermost loop only has the address itself: what it adds up is forgotten when another loop
    steps. All is modulo 2**32.

    Parameters
    ----------
    loops : sequence of str
        Names of the loops, innermost first.

    Members
    -------
    start : In(1), first : In(32), first_offset : In(signed(24))
        In the next cycle every loop begins, at `first + first_offset`.
    move : In(1)
        Take, for the next cycle, the step that `turns` names; never together with `start`.
    turns : In
        The one loop that steps; those inside it begin again.
    steps : In
        Each loop's step, signed.
    address : Out(32)
    """

    def __init__(self, loops: Sequence[str]):
        self.loops = tuple(loops)
        super().__init__(
            {
                "start": In(1),
                "first": In(ADDRESS_BITS),
                "first_offset": In(signed(STEP_BITS)),
                "move": In(1),
                "turns": In(data.StructLayout({name: 1 for name in loops})),
                "steps": In(data.StructLayout({name: signed(STEP_BITS) for name in loops})),
                "address": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bases = {name: Signal(ADDRESS_BITS, name=f"base_{name}") for name in self.loops[1:]}
        base, step = Signal(ADDRESS_BITS), Signal(signed(STEP_BITS))
        with m.If(self.start):
            m.d.comb += [base.eq(self.first), step.eq(self.first_offset)]
        for name in self.loops:
            with m.Elif(self.turns[name]):
                m.d.comb += [
                    base.eq(bases.get(name, self.address)),
                    step.eq(self.steps[name]),
                ]
        following = Signal(ADDRESS_BITS)
        m.d.comb += following.eq(base + step)
        with m.If(self.start | self.move):
            m.d.sync += self.address.eq(following)
        begins: Any = self.start
        for name in reversed(self.loops[1:]):
            begins = begins | (self.move & self.turns[name])
            with m.If(begins):
                m.d.sync += bases[name].eq(following)
        return m
