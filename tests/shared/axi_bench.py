"""The cocotb side of the AXI tests: runs programs on a machine behind models of memories and host.

It judges nothing but the protocol: the cases come from a file, what the runs left behind goes to
another one. `test_axi_machine.py` makes the former and compares the latter. cocotb imports this
module inside the simulation.
"""

import logging
import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave, SparseMemoryRegion

from systol_hw.program import Program
from systol_hw.tables.address_map import IDENTITY, REGISTER_AT, VERSION

CASES_VARIABLE = "SYSTOL_AXI_CASES"
RESULTS_VARIABLE = "SYSTOL_AXI_RESULTS"
WEIGHT_BASE = 0x12_3456_7000
WINDOW_BASES = tuple(0x9_8000_0000 + 0x1_0001_0000 * i for i in range(16))
_POLL_CYCLES = 50
_POLLS = 20_000


@dataclass
class AxiCase:
    """A run: the program, what stands in its windows, the registers to write, and the memories'
    and the host's behaviour, stalls in percent of the cycles and extra delay in cycles.

    `failing` names beats that the memories answer with an error, by the memory ("weight", or the
    index of a window) and the beat's offset in it."""

    program: Program
    contents: dict[str, np.ndarray]
    writes: list[tuple[int, int]]
    counter_addresses: list[tuple[int, int, int]]
    stall_percent: int = 0
    delay: int = 0
    seed: int = 0
    acknowledge_all: bool = True
    failing: list[tuple[str | int, int]] = field(default_factory=list)


@dataclass
class AxiOutcome:
    """What a run left: final memories, registers by name, counters in the order asked for; and
    `status_before`, what `status` was before the start, when all else was written."""

    weight: bytes
    windows: list[bytes]
    status_before: int
    registers: dict[str, int]
    counters: list[int]
    syncs: list[int]
    refused: list[str] = field(default_factory=list)


class SlowMemory(SparseMemoryRegion):  # type: ignore[misc]
    """A memory that takes up to `delay` more cycles for each access, and does none of those that
    begin at an address in `failing`: the slave answers them with SLVERR."""

    def __init__(self, clock: Any):
        super().__init__(size=2**64)
        self.clock, self.delay, self.rng = clock, 0, random.Random(0)
        self.failing: set[int] = set()

    async def _wait(self, address: int) -> None:
        cycles = self.rng.randint(0, self.delay)
        if cycles:
            await ClockCycles(self.clock, cycles)
        if address in self.failing:
            raise OSError(f"the access of {address:#x} fails, as the case says")

    async def _read(self, address: int, length: int, **rest: Any) -> bytes:
        await self._wait(address)
        return bytes(await super()._read(address, length, **rest))

    async def _write(self, address: int, data: bytes, **rest: Any) -> None:
        await self._wait(address)
        await super()._write(address, data, **rest)


def pauses(rng: random.Random, percent: int) -> Iterator[bool]:
    """True in `percent` of the cycles, for ever."""
    while True:
        yield rng.randrange(100) < percent


class Host:
    """The machine's registers by name, through AXI4-Lite."""

    def __init__(self, master: AxiLiteMaster):
        self.master = master

    async def write(self, name: str | int, value: int) -> None:
        """Write a register, by name or offset; it must be accepted."""
        offset = REGISTER_AT[name].offset if isinstance(name, str) else name
        response = await self.master.write(offset, value.to_bytes(4, "little"))
        assert response.resp == AxiResp.OKAY, f"write of {name} refused"

    async def read(self, name: str) -> int:
        """Read a register."""
        response = await self.master.read(REGISTER_AT[name].offset, 4)
        assert response.resp == AxiResp.OKAY, f"read of {name} refused"
        return int.from_bytes(response.data, "little")

    async def refuses(self, offset: int, data: bytes | None) -> bool:
        """Whether a write of `data`, or a read if that is None, is answered SLVERR."""
        if data is None:
            answer = await self.master.read(offset, 4)
        else:
            answer = await self.master.write(offset, data)
        return bool(answer.resp == AxiResp.SLVERR)


class Bench:
    """The machine with its surroundings."""

    def __init__(self, dut: Any):
        self.dut = dut
        self.memories, self.slaves = {}, {}
        for name in ("weight", "host"):
            bus = AxiBus.from_prefix(dut, f"m_axi_{name}")
            memory = SlowMemory(dut.clk)
            self.memories[name] = memory
            self.slaves[name] = AxiSlave(bus, dut.clk, dut.rst, target=memory)
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.host = Host(self.master)
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("cocotb."):
                logging.getLogger(name).setLevel(logging.WARNING)

    async def reset(self) -> None:
        """Clock and reset."""
        Clock(self.dut.clk, 10, unit="ns").start()
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    def stall(self, case: AxiCase) -> None:
        """Make memories and host as slow as `case` says."""
        rng = random.Random(case.seed)
        for name, slave in self.slaves.items():
            self.memories[name].delay = case.delay
            self.memories[name].rng = random.Random(f"{case.seed} {name}")
            read, write = slave.read_if, slave.write_if
            for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel,
                            write.b_channel):  # fmt: skip
                channel.set_pause_generator(
                    pauses(random.Random(rng.random()), case.stall_percent)
                    if case.stall_percent else None
                )
                channel.pause = False
        read, write = self.master.read_if, self.master.write_if
        for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel,
                        write.b_channel):  # fmt: skip
            channel.set_pause_generator(
                pauses(random.Random(rng.random()), case.stall_percent)
                if case.stall_percent else None
            )
            channel.pause = False

    async def run(self, case: AxiCase) -> AxiOutcome:
        """One whole run, as a host driver makes it."""
        host, program = self.host, case.program
        self.stall(case)
        assert await host.read("identity") == IDENTITY
        assert await host.read("version") == VERSION
        places = [("weight_base", WEIGHT_BASE)]
        places += [(f"window_base_{i}", base) for i, base in enumerate(WINDOW_BASES)]
        for name, base in places:
            await host.write(f"{name}_low", base & 0xFFFF_FFFF)
            await host.write(f"{name}_high", base >> 32)
        await self.memories["weight"].write(WEIGHT_BASE, program.initial_weight_memory().tobytes())
        for base, window in zip(
            WINDOW_BASES, program.initial_windows(dict(case.contents)), strict=False
        ):
            await self.memories["host"].write(base, window.tobytes())
        for offset, value in case.writes:
            await host.write(offset, value)

        await host.write("acknowledge_all", case.acknowledge_all)
        for place, offset in case.failing:
            if isinstance(place, int):
                self.memories["host"].failing.add(WINDOW_BASES[place] + offset)
            else:
                self.memories[place].failing.add(WEIGHT_BASE + offset)

        status_before = await host.read("status")
        await host.write("control", 0b11)
        refused = await self._probe_while_busy()
        syncs = []
        for _ in range(_POLLS):
            if self.dut.irq.value:
                status = await host.read("status")
                if not status & 1:
                    break
                if status & 1 << 6:
                    syncs.append(await host.read("interrupt") & 0xFFFF)
                    await host.write("control", 0b110)
            await ClockCycles(self.dut.clk, _POLL_CYCLES)
        else:
            raise AssertionError("the program did not end")
        status = await host.read("status")
        await host.write("control", 0b10)
        assert not await host.read("status") & 1 << 5 and not self.dut.irq.value
        names = ("fault", "fault_pc", "fault_cycle_low", "fault_cycle_high", "interrupt",
                 "program_status")  # fmt: skip
        registers = {"status": status} | {name: await host.read(name) for name in names}
        counters = []
        for group, tag, code in case.counter_addresses:
            await host.write("counter_address", group << 8 | tag << 4 | code)
            low = await host.read("counter_low")
            counters.append(low | await host.read("counter_high") << 32)
        for memory in self.memories.values():
            memory.delay = 0
            memory.failing.clear()
        return AxiOutcome(
            weight=await self.memories["weight"].read(WEIGHT_BASE, program.weight_memory_bytes),
            windows=[
                await self.memories["host"].read(base, window.size_bytes)
                for base, window in zip(WINDOW_BASES, program.windows, strict=False)
            ],
            status_before=status_before,
            registers=registers,
            counters=counters,
            syncs=syncs,
            refused=refused,
        )

    async def _probe_while_busy(self) -> list[str]:
        """What a busy machine refuses of what it must refuse."""
        whole = (12345).to_bytes(4, "little")
        attempts = {
            "a configuration register": (REGISTER_AT["code_length"].offset, whole),
            "a register that is read": (REGISTER_AT["status"].offset, whole),
            "a part of a word": (REGISTER_AT["control"].offset, whole[:2]),
            "a hole, written": (0x3FC, whole),
            "a hole, read": (0x3FC, None),
            "a register that is written, read": (REGISTER_AT["control"].offset, None),
        }
        return [name for name, (offset, data) in attempts.items()
                if await self.host.refuses(offset, data)]  # fmt: skip


@cocotb.test()
async def run_cases(dut: Any) -> None:
    """Run every case on one machine, one after another, with one reset before the first."""
    given = pickle.loads(Path(os.environ[CASES_VARIABLE]).read_bytes())
    cases = [AxiCase(**fields) for fields in given]
    bench = Bench(dut)
    await bench.reset()
    # As plain values: the other side does not import this module.
    outcomes = [vars(await bench.run(case)) for case in cases]
    Path(os.environ[RESULTS_VARIABLE]).write_bytes(pickle.dumps(outcomes))
