"""The AXI4-Lite slave with a host whose channels drift apart at random, against the address map."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from random_streams import RandomSink, RandomSource
from systol_hw.pages.address_map import address_map_page
from systol_hw.rtl.bus.axi_lite import AxiLiteRegisters
from systol_hw.tables.address_map import ADDRESS_MAP, MEMORY_BASES, Access
from systol_hw.tables.registers import REGISTERS, Register

OKAY, SLVERR = 0, 2
BY_OFFSET = {register.offset: register for register in ADDRESS_MAP}


def test_the_map_is_in_order_and_every_register_has_a_word_of_its_own() -> None:
    offsets = [register.offset for register in ADDRESS_MAP]
    assert offsets == sorted(set(offsets)) and all(offset % 4 == 0 for offset in offsets)
    names = [register.name for register in ADDRESS_MAP]
    assert len(set(names)) == len(names)
    assert {register.name for register in REGISTERS} <= set(names)
    assert all(f"| `{name}` |" in address_map_page() for name in names)


def expected_write(offset: int, strobes: int, busy: bool) -> bool:
    """Whether the page lets the host write."""
    register = BY_OFFSET.get(offset)
    writable = register is not None and register.access is Access.WRITE
    return writable and strobes == 15 and (not busy or register is BY_OFFSET[8])


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_writes_reach_their_registers_and_no_others(busy: bool, rate: float) -> None:
    rng = random.Random(f"{busy} {rate}")
    dut = AxiLiteRegisters()
    bus = dut.bus
    offsets = [register.offset for register in ADDRESS_MAP] + [0x0F0, 0x3FC]
    writes = [
        (rng.choice(offsets), rng.getrandbits(32), rng.choice((15, 15, 15, 7, 0)))
        for _ in range(400)
    ]
    sources = [
        RandomSource(bus.awvalid, bus.awready, {"awaddr": bus.awaddr}, rng, rate,
                     [{"awaddr": offset} for offset, _, _ in writes]),
        RandomSource(bus.wvalid, bus.wready, {"wdata": bus.wdata, "wstrb": bus.wstrb}, rng, rate,
                     [{"wdata": data, "wstrb": strobes} for _, data, strobes in writes]),
    ]  # fmt: skip
    sink = RandomSink(bus.bvalid, bus.bready, {"bresp": bus.bresp}, rng, rate)
    answers: list[int] = []
    configured: list[tuple[int, int]] = []
    starts = 0
    acknowledged: list[int] = []

    async def bench(ctx: Any) -> None:
        nonlocal starts
        ctx.set(dut.busy, busy)
        while len(answers) < len(writes):
            for source in sources:
                source.drive(ctx)
            sink.drive(ctx)
            for source in sources:
                source.finish(ctx)
            answer = sink.finish(ctx)
            if answer is not None:
                answers.append(answer["bresp"])
            if ctx.get(dut.config_write):
                configured.append((ctx.get(dut.config_address), ctx.get(dut.config_data)))
            starts += ctx.get(dut.start)
            acknowledged.append(ctx.get(dut.sync_ack))
            await ctx.tick()
        bases = {name: 0 for name in MEMORY_BASES}
        for offset, data, strobes in writes:
            if expected_write(offset, strobes, busy):
                name, _, half = BY_OFFSET[offset].name.rpartition("_")
                if name in bases and half == "low":
                    bases[name] = bases[name] >> 32 << 32 | data & ~0xFFF
                elif name in bases:
                    bases[name] = bases[name] & 0xFFFF_FFFF | data << 32
        for name, base in bases.items():
            assert ctx.get(getattr(dut, name)) == base

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    allowed = [expected_write(offset, strobes, busy) for offset, _, strobes in writes]
    assert answers == [OKAY if fine else SLVERR for fine in allowed]
    known: dict[str, Register] = {register.name: register for register in REGISTERS}
    assert configured == [
        (known[BY_OFFSET[offset].name].address, data)
        for (offset, data, _), fine in zip(writes, allowed, strict=True)
        if fine and BY_OFFSET[offset].name in known
    ]
    assert bool(configured) != busy
    assert starts == sum(
        fine and BY_OFFSET[offset].name == "control" and data & 1
        for (offset, data, _), fine in zip(writes, allowed, strict=True)
    )
    assert starts > 0
    # Single acknowledgements while busy; between runs `acknowledge_all` comes and goes as well.
    single = sum(
        fine and BY_OFFSET[offset].name == "control" and data >> 2 & 1
        for (offset, data, _), fine in zip(writes, allowed, strict=True)
    )
    assert sum(acknowledged) == single if busy else sum(acknowledged) > single
