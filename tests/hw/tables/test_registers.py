"""The register table, and the RTL that comes from it."""

import dataclasses
from fractions import Fraction

import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, MemoryPort
from systol_hw.rtl.machine import ConfigurationRegisters
from systol_hw.tables.registers import (
    ADDRESS_BITS,
    REGISTER_BY_NAME,
    REGISTERS,
    latency_limit,
    port_values,
    reset_values,
)


def test_addresses_and_names_are_distinct_and_fit() -> None:
    assert len({r.address for r in REGISTERS}) == len(REGISTERS) == len(REGISTER_BY_NAME)
    assert all(0 <= r.address < 1 << ADDRESS_BITS for r in REGISTERS)


def test_port_registers_hold_every_port() -> None:
    extremes = [
        MemoryPort(width_bytes=64, bytes_per_cycle=Fraction(4094, 4095), latency_cycles=511),
        MemoryPort(width_bytes=64, bytes_per_cycle=Fraction(4095, 64), latency_cycles=8),
    ]
    for port in ("weight", "host"):
        for memory in extremes:
            for name, value in port_values(port, memory).items():
                assert value < 1 << REGISTER_BY_NAME[name].width, name


@pytest.mark.parametrize("latency", [8, 16, 40, 100, 500, 511])
def test_a_port_can_be_set_to_the_latencies_it_is_built_for(latency: int) -> None:
    limit = latency_limit(latency)
    assert latency + 8 < limit and limit & (limit - 1) == 0


def test_registers_come_up_with_the_machine_and_take_writes() -> None:
    arch = dataclasses.replace(PRESETS["tpu-v1"], name="other")
    registers = ConfigurationRegisters(arch)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        expected = reset_values(arch)
        for register in (None, *REGISTERS):
            if register is not None:
                value = (1 << register.width) - 1 - register.address
                ctx.set(registers.write, 1)
                ctx.set(registers.address, register.address)
                ctx.set(registers.data, value)
                await ctx.tick()
                ctx.set(registers.write, 0)
                ctx.set(registers.data, 0)
                await ctx.tick()
                expected[register.name] = value
            for name, value in expected.items():
                assert ctx.get(getattr(registers, name)) == value

    simulator = Simulator(registers)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
