"""The counter memories: every event counted once, however they crowd on one address."""

import random
from collections import Counter

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS
from systol_hw.rtl.counters import PEAKS, AmountCounters, Counters, StateCounters
from systol_hw.tables.counters import AMOUNTS, COUNTER_BITS, SCALAR_GROUP, SCALARS
from systol_hw.tables.faults import Unit
from systol_hw.tables.registers import COUNTER_READ_LATENCY_CYCLES


@pytest.mark.parametrize("addresses", [1, 2, 3, 256])
def test_state_counters_lose_no_event(addresses: int) -> None:
    counters = StateCounters()
    rng = random.Random(addresses)
    events: Counter[int] = Counter()

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for _ in range(500):
            address, count = rng.randrange(addresses), rng.random() < 0.8
            ctx.set(counters.address, address)
            ctx.set(counters.count, count)
            events[address] += count
            await ctx.tick()
        ctx.set(counters.count, 0)
        await ctx.tick().repeat(3)
        for address in range(256):
            ctx.set(counters.read_address, address)
            await ctx.tick()
            assert ctx.get(counters.read_data) == events[address]
        ctx.set(counters.clear, 1)
        ctx.set(counters.clear_address, 0)
        await ctx.tick()
        ctx.set(counters.clear, 0)
        ctx.set(counters.read_address, 0)
        await ctx.tick()
        assert ctx.get(counters.read_data) == 0

    simulator = Simulator(counters)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_amount_counters_add_and_wrap() -> None:
    counters = AmountCounters(COUNTER_BITS)
    rng = random.Random(2)
    sums = [0] * 16

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for _ in range(300):
            tag = rng.choice([0, 5, 5, 15])
            amount = rng.choice([0, 1, rng.getrandbits(COUNTER_BITS)])
            ctx.set(counters.tag, tag)
            ctx.set(counters.amount, amount)
            sums[tag] = (sums[tag] + amount) % (1 << COUNTER_BITS)
            await ctx.tick()
        ctx.set(counters.amount, 0)
        await ctx.tick().repeat(2)
        for tag in range(16):
            ctx.set(counters.read_tag, tag)
            assert ctx.get(counters.read_data) == sums[tag]

    simulator = Simulator(counters)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_read_port_reaches_every_group() -> None:
    counters = Counters(PRESETS["nano"])
    cycles = 40

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for cycle in range(cycles):
            ctx.set(counters.running, 1)
            ctx.set(counters.cycle, cycle + 1)
            ctx.set(counters.late, cycle % 3)
            for unit in Unit:
                ctx.set(getattr(counters, f"state_{unit.name.lower()}"), unit + 1)
                ctx.set(getattr(counters, f"tag_{unit.name.lower()}"), unit)
            for amount in AMOUNTS:
                ctx.set(getattr(counters, f"amount_{amount.group}"), 1)
                ctx.set(getattr(counters, f"amount_tag_{amount.group}"), amount.group % 16)
            for index, name in enumerate(PEAKS):
                ctx.set(getattr(counters, f"level_{name}"), min(index % 3, 1) * (cycle == 9))
            await ctx.tick()
        ctx.set(counters.running, 0)
        await ctx.tick().repeat(8)

        async def read(group: int, tag: int, code: int) -> int:
            ctx.set(counters.read_group, group)
            ctx.set(counters.read_tag, tag)
            ctx.set(counters.read_code, code)
            await ctx.tick().repeat(COUNTER_READ_LATENCY_CYCLES)
            value: int = ctx.get(counters.read_data)
            return value

        for unit in Unit:
            for tag in range(len(Unit)):
                expected = cycles if tag == unit else 0
                assert await read(unit, tag, unit + 1) == expected
        for amount in AMOUNTS:
            for tag in range(16):
                assert await read(amount.group, tag, 0) == cycles * (tag == amount.group % 16)
        scalars = {"cycles": cycles, "late_cycles": sum(c % 3 for c in range(cycles))}
        scalars |= {name: min(index % 3, 1) for index, name in enumerate(PEAKS)}
        for scalar in SCALARS:
            assert await read(SCALAR_GROUP, 0, scalar.index) == scalars[scalar.name], scalar.name

    simulator = Simulator(counters)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
