"""The token counters, one for each ordered pair of different units (docs/timing.md, 5.2, 5.4)."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.rtl.contract.widths import TOKEN_UNITS

__all__ = ["TokenCounters"]

_MASKS = data.ArrayLayout(len(TOKEN_UNITS), len(TOKEN_UNITS))


class TokenCounters(Component):
    """All pair counters.

    Masks are indexed by `unit - 1`. A counter that is incremented and consumed in one cycle keeps
    its value.

    Members
    -------
    consume : In, for each consumer a mask of producers
        The consumer takes one token of each; only where `available`.
    give : In, for each producer a mask of consumers
        The producer's instruction ends in this cycle and gives each one token.
    available : Out, for each consumer a mask of producers
        Registered: the counter is at least 1.
    overflow : Out, one bit for each producer
        A counter would pass `token_limit` in this cycle.
    """

    consume: In(_MASKS)
    give: In(_MASKS)
    available: Out(_MASKS)
    overflow: Out(len(TOKEN_UNITS))

    def __init__(self, arch: Arch):
        self.limit = arch.token_limit
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for producer in TOKEN_UNITS:
            overflows = []
            for consumer in TOKEN_UNITS:
                if producer is consumer:
                    continue
                p, c = producer - 1, consumer - 1
                count = Signal(
                    bits_for(self.limit),
                    name=f"{producer.name.lower()}_to_{consumer.name.lower()}",
                )
                give, consume = self.give[p][c], self.consume[c][p]
                with m.If(give & ~consume):
                    m.d.sync += count.eq(count + 1)
                with m.Elif(consume & ~give):
                    m.d.sync += count.eq(count - 1)
                m.d.comb += self.available[c][p].eq(count != 0)
                overflows.append(give & ~consume & (count == self.limit))
            m.d.comb += self.overflow[producer - 1].eq(Cat(overflows).any())
        return m
