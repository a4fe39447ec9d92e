"""The unified buffer against sections 4.1 and 4.2 of the timing contract."""

import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.rtl.memory.unified_buffer import READ_RANKS, WRITE_RANKS, UnifiedBuffer

NANO = PRESETS["nano"]
MACHINES = {
    "nano": replace(NANO, ub_bytes=512),
    "4x8": replace(NANO, rows=4, columns=8, ub_bytes=256, ub_banks=2),
    "12x6": replace(NANO, rows=12, columns=6, ub_bytes=3 * 64, ub_banks=3),
    "one bank": replace(NANO, ub_bytes=64, ub_banks=1),
    "edge16": replace(PRESETS["edge16"], ub_bytes=1024),
    "32-byte ports": replace(
        PRESETS["edge32"],
        rows=20,
        ub_bytes=512,
        ub_banks=2,
        weight_port=replace(PRESETS["edge32"].weight_port, width_bytes=32),
    ),
}


@dataclass
class Access:
    """An access that a port presents."""

    address: int
    length: int
    data: bytes = b""


class BufferModel:
    """Rules 4.1 and 4.2, written from the page."""

    def __init__(self, arch: Arch):
        self.arch = arch
        self.bytes = bytearray(arch.ub_bytes)

    def granted(self, presented: list[Access | None]) -> list[bool]:
        """Which of the accesses, in rank order, are granted."""
        taken: set[int] = set()
        result = []
        for access in presented:
            claims = set()
            if access is not None:
                last = access.address + access.length - 1
                claims = {access.address // self.arch.bank_bytes, last // self.arch.bank_bytes}
            result.append(access is not None and not claims & taken)
            if result[-1]:
                taken |= claims
        return result


def random_access(rng: random.Random, arch: Arch, longest: int) -> Access:
    """Any place, with banks' borders and the buffer's ends more often than chance has them."""
    length = rng.choice([1, longest, rng.randint(1, longest)])
    if rng.random() < 0.5:
        border = rng.randrange(arch.ub_banks + 1) * arch.bank_bytes
        address = border + rng.randint(-arch.ub_width_bytes, arch.ub_width_bytes)
    else:
        address = rng.randrange(arch.ub_bytes)
    return Access(max(0, min(address, arch.ub_bytes - length)), length)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("density", [0.15, 0.8])
def test_random_traffic(machine: str, density: float) -> None:
    arch = MACHINES[machine]
    rng = random.Random(f"{machine} {density}")
    dut = UnifiedBuffer(arch)
    model = BufferModel(arch)
    read_ports = [getattr(dut, name) for name in READ_RANKS]
    write_ports = [getattr(dut, f"{name}_write") for name in WRITE_RANKS]
    losses = dict.fromkeys(range(len(READ_RANKS)), 0)
    crossings = 0

    async def bench(ctx: Any) -> None:
        nonlocal crossings
        reads: list[Access | None] = [None] * len(read_ports)
        writes: list[Access | None] = [None] * len(write_ports)
        expected: list[tuple[int, bytes]] = []
        for cycle in range(300):
            for accesses, ports, names in (
                (reads, read_ports, READ_RANKS),
                (writes, write_ports, WRITE_RANKS),
            ):
                for index, port in enumerate(ports):
                    # A refused access stays, or is given up: both are allowed.
                    if accesses[index] is None or rng.random() < 0.1:
                        longest = dut.port_bytes[names[index]]
                        fresh = random_access(rng, arch, longest)
                        fresh.data = rng.randbytes(fresh.length)
                        accesses[index] = fresh if rng.random() < density else None
                    access = accesses[index]
                    ctx.set(port.request, access is not None)
                    idle_address = rng.randrange(arch.ub_bytes)
                    ctx.set(port.address, access.address if access else idle_address)
                    ctx.set(port.length, access.length if access else rng.randrange(1, 8))
                    if accesses is writes:
                        # Bytes beyond the length must not matter.
                        noise = rng.randbytes(arch.ub_width_bytes)
                        data = access.data + noise[access.length :] if access else noise
                        ctx.set(port.data, int.from_bytes(data, "little"))
            for index, data in expected:
                shown = ctx.get(read_ports[index].data).to_bytes(arch.ub_width_bytes, "little")
                assert shown[: len(data)] == data, f"{READ_RANKS[index]} in cycle {cycle}"
            expected = []

            granted = model.granted(reads)
            assert [bool(ctx.get(port.grant)) for port in read_ports] == granted
            for index, access in enumerate(reads):
                if access is not None and not granted[index]:
                    losses[index] += 1
                if access is not None and granted[index]:
                    end = access.address + access.length
                    expected.append((index, bytes(model.bytes[access.address : end])))
                    crossings += access.address // arch.bank_bytes != (end - 1) // arch.bank_bytes
                    reads[index] = None
            granted = model.granted(writes)
            assert [bool(ctx.get(port.grant)) for port in write_ports] == granted
            for index, access in enumerate(writes):
                if access is not None and granted[index]:
                    end = access.address + access.length
                    model.bytes[access.address : end] = access.data
                    writes[index] = None
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert losses[0] == 0
    assert density < 0.5 or all(losses[index] for index in range(1, len(READ_RANKS)))
    assert crossings or arch.ub_banks == 1 or density > 0.5


def test_ranks_and_lengths_are_those_of_the_page() -> None:
    """4.2's order, and the longest access of each unit by sections 6 and 7."""
    assert READ_RANKS == ("store", "weights", "matrix", "vector_a", "vector_b")
    assert WRITE_RANKS == ("load", "vector")
    arch = MACHINES["12x6"]
    buffer = UnifiedBuffer(arch)
    longest = buffer.port_bytes
    Fragment.get(buffer, None)  # a component that nobody elaborates earns a warning
    # A line of a tile is one of its rows or one of its columns.
    assert longest["weights"] == 12 and longest["matrix"] == 12 and longest["vector_a"] == 6


def test_every_byte_address_and_length() -> None:
    """Each write of every length at every address changes exactly its bytes."""
    arch = replace(NANO, ub_bytes=64, ub_banks=2)
    dut = UnifiedBuffer(arch)
    rng = random.Random(2)
    expected = bytearray(64)

    async def bench(ctx: Any) -> None:
        for length in (1, 3, 8):
            for address in range(64 - length + 1):
                data = rng.randbytes(8)
                ctx.set(dut.vector_write.request, 1)
                ctx.set(dut.vector_write.address, address)
                ctx.set(dut.vector_write.length, length)
                ctx.set(dut.vector_write.data, int.from_bytes(data, "little"))
                expected[address : address + length] = data[:length]
                await ctx.tick()
                ctx.set(dut.vector_write.request, 0)
                ctx.set(dut.matrix.request, 1)
                ctx.set(dut.matrix.length, 8)
                for start in (max(0, address - 8), min(address, 56), min(address + length, 56)):
                    ctx.set(dut.matrix.address, start)
                    await ctx.tick()
                    shown = ctx.get(dut.matrix.data).to_bytes(8, "little")
                    assert shown == bytes(expected[start : start + 8])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
