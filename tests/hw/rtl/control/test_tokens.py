"""The token counters against plain counting."""

import dataclasses
import random

from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.rtl.contract.widths import TOKEN_UNITS
from systol_hw.rtl.control.tokens import TokenCounters


def test_counters_follow_a_model_and_report_overflow() -> None:
    arch = dataclasses.replace(PRESETS["nano"], token_limit=3)
    tokens = TokenCounters(arch)
    rng = random.Random(1)
    overflows = 0

    async def bench(ctx):  # type: ignore[no-untyped-def]
        nonlocal overflows
        counts = {(p, c): 0 for p in TOKEN_UNITS for c in TOKEN_UNITS if p is not c}
        for _ in range(2000):
            give, consume = {}, {}
            for producer in TOKEN_UNITS:
                for consumer in TOKEN_UNITS:
                    if producer is consumer:
                        continue
                    pair = producer, consumer
                    assert ctx.get(tokens.available[consumer - 1][producer - 1]) == (
                        counts[pair] > 0
                    )
                    give[pair] = rng.random() < 0.3
                    consume[pair] = counts[pair] > 0 and rng.random() < 0.4
            for unit in TOKEN_UNITS:
                ctx.set(
                    tokens.give[unit - 1], sum(1 << (c - 1) for (p, c) in give
                                               if p is unit and give[p, c])
                )
                ctx.set(
                    tokens.consume[unit - 1], sum(1 << (p - 1) for (p, c) in consume
                                                  if c is unit and consume[p, c])
                )
            expected = 0
            for pair, count in counts.items():
                if give[pair] and not consume[pair] and count == arch.token_limit:
                    expected |= 1 << (pair[0] - 1)
            assert ctx.get(tokens.overflow) == expected
            overflows += bool(expected)
            await ctx.tick()
            for pair in counts:
                # Past the limit the machine has stopped; the counter then wraps.
                counts[pair] = (counts[pair] + give[pair] - consume[pair]) % 4

    simulator = Simulator(tokens)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert overflows > 50
