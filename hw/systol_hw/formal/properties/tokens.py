"""The token counters: signals less waits, and overflow when the limit would be passed."""

import dataclasses
from functools import partial
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Signal

from systol_hw.arch import PRESETS
from systol_hw.formal.proof import Insides, Mutant, Proof

__all__ = ["PROOFS"]

_COUNT_BITS = 12


def _tokens(source: Any, *, limit: int) -> Module:
    m = Module()
    dut = source.TokenCounters(dataclasses.replace(PRESETS["nano"], token_limit=limit))
    inside = Insides(dut)
    m.submodules.tokens = fragment = inside.fragment
    registers = inside.signals(fragment)
    units = source.TOKEN_UNITS
    for unit in units:
        mask = AnySeq(len(units))
        m.d.comb += [dut.give[unit - 1].eq(mask), dut.consume[unit - 1].eq(AnySeq(len(units)))]
    # An overflow ends the run: what the counters hold in later cycles is nobody's concern.
    running = Signal(init=1)
    m.d.sync += running.eq(running & ~dut.overflow.any())

    for producer in units:
        passes = []
        for consumer in units:
            if producer is consumer:
                continue
            name = f"{producer.name.lower()}_to_{consumer.name.lower()}"
            give = dut.give[producer - 1][consumer - 1]
            consume = dut.consume[consumer - 1][producer - 1]
            available = dut.available[consumer - 1][producer - 1]
            tokens = Signal(_COUNT_BITS, name=f"{name}_tokens")
            after = Signal(_COUNT_BITS, name=f"{name}_after")
            m.d.comb += [
                Assume(~consume | (tokens != 0)),
                after.eq(tokens + give - consume),
                Assert(~running | (available == (tokens != 0))),
                Assert(~running | (tokens <= limit)),
                Assert(~running | (registers[name] == tokens)),
            ]
            m.d.sync += tokens.eq(after)
            passes.append(after > limit)
        m.d.comb += Assert(~running | (dut.overflow[producer - 1] == Cat(passes).any()))
    return m


PROOFS: tuple[Proof, ...] = tuple(
    Proof(
        name=f"tokens-{limit}",
        source="systol_hw.rtl.control.tokens",
        states="each of the twenty counters is the signals less the waits of its pair; a token is "
        "available exactly if that is not zero; overflow is reported for exactly the producers "
        f"of which a counter would pass the limit, here {limit}",
        build=partial(_tokens, limit=limit),
        depth=limit + 3,
        mutants=(
            Mutant(
                old="give & ~consume & (count == self.limit)",
                new="give & (count == self.limit)",
            ),
            Mutant(old="with m.If(give & ~consume):", new="with m.If(give):"),
            Mutant(old="self.consume[c][p]", new="self.consume[p][c]"),
        ),
    )
    for limit in (1, 4)
)
"""Proofs about tokens."""
