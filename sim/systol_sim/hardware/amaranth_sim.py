"""Runs small programs on the RTL in Amaranth's own simulator: slow, but without a C++ compiler."""

import contextlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from systol_hw.arch import Arch
from systol_hw.errors import InputError, MissingToolError
from systol_hw.program import Program
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_hw.tables.registers import COUNTER_READ_LATENCY_CYCLES
from systol_sim.hardware.run_setup import (
    counter_addresses,
    counters_from,
    register_writes,
    rows_of_accumulators,
    used_tags,
)
from systol_sim.hardware.waves import not_written, waves_format
from systol_sim.results import RunResult
from systol_sim.validity.checker import check


def run(
    program: Program,
    contents: Mapping[str, np.ndarray] | None = None,
    *,
    watchdog_cycles: int | None = None,
    checked: bool = False,
    packed: bool = False,
    cycle_limit: int = 100_000,
    memories: bool = False,
    waves: Path | None = None,
) -> RunResult:
    """Run `program` on the RTL without Verilator.

    Only counters under the tags that the program sets are read; the others stay zero.

    Parameters
    ----------
    program, contents, watchdog_cycles, checked, packed, cycle_limit, memories
        As in `systol_sim.hardware.verilated.run`; reading the memories back takes a cycle
        for each row.
    waves
        A .vcd file to draw all signals into, in 1 us cycles from reset on.

    Raises
    ------
    InvalidProgramError
        If the static checker refuses `program`.
    MissingToolError
        If Amaranth is not installed.
    InputError
        If the program does not end within `cycle_limit`, or `waves` cannot be written.
    """
    if not checked:
        check(program)
    if waves is not None:
        waves_format(waves, ("vcd",))
    try:
        from amaranth.sim import Simulator

        from systol_hw.rtl.machine import Machine
    except ImportError as error:
        raise MissingToolError(
            "simulating the RTL needs the Python package amaranth: pip install 'systol[rtl]'"
        ) from error
    machine = Machine(program.arch, packed=packed)
    bench = _Bench(
        machine=machine,
        program=program,
        windows=program.initial_windows(dict(contents or {})),
        writes=register_writes(program, watchdog_cycles=watchdog_cycles),
        cycle_limit=cycle_limit,
        memories=memories,
    )
    simulator = Simulator(machine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.execute)
    try:
        with contextlib.nullcontext() if waves is None else simulator.write_vcd(str(waves)):
            simulator.run()
    except OSError as error:
        if waves is None:
            raise
        raise not_written(waves, error) from error
    assert bench.result is not None
    return bench.result


class _Memory:
    """A memory behind a port, ready in every cycle; answers in the cycle after a request."""

    def __init__(self, port: Any, memories: list[np.ndarray], width_bytes: int):
        self.port = port
        self.memories = memories
        self.width_bytes = width_bytes
        self.responses: deque[int] = deque()

    def exchange(self, ctx: Any) -> None:
        """Serve this cycle: give the answer to the last request, take the present one."""
        port = self.port
        answered = bool(self.responses)
        ctx.set(port.response_valid, answered)
        ctx.set(port.response_data, self.responses.popleft() if answered else 0)
        if not ctx.get(port.request_valid):
            return
        window, address = ctx.get(port.request_window), ctx.get(port.request_address)
        memory = self.memories[window] if window < len(self.memories) else np.zeros(0, np.uint8)
        value = 0
        if ctx.get(port.request_write):
            data, strobe = ctx.get(port.request_data), ctx.get(port.request_strobe)
            for i in range(self.width_bytes):
                if strobe >> i & 1 and address + i < memory.size:
                    memory[address + i] = data >> 8 * i & 0xFF
        else:
            value = int.from_bytes(memory[address : address + self.width_bytes], "little")
        self.responses.append(value)


class _Bench:
    """Drives one run; `result` is there when `execute` has ended."""

    def __init__(
        self,
        *,
        machine: Any,
        program: Program,
        windows: list[np.ndarray],
        writes: list[tuple[int, int]],
        cycle_limit: int,
        memories: bool,
    ):
        self.machine = machine
        self.program = program
        self.windows = windows
        self.weight = program.initial_weight_memory()
        self.writes = writes
        self.cycle_limit = cycle_limit
        self.memories = memories
        self.times = np.full((len(program.code), 2), -1, np.int64)
        self.interrupts: list[int] = []
        arch = program.arch
        self.ports = [
            _Memory(machine.weight, [self.weight], arch.weight_port.width_bytes),
            _Memory(machine.host, windows, arch.host_port.width_bytes),
        ]
        self.result: RunResult | None = None

    async def execute(self, ctx: Any) -> None:
        """The test bench process."""
        machine = self.machine
        ctx.set(machine.weight.request_ready, 1)
        ctx.set(machine.host.request_ready, 1)
        for address, value in self.writes:
            ctx.set(machine.config_write, 1)
            ctx.set(machine.config_address, address)
            ctx.set(machine.config_data, value)
            await ctx.tick()
        ctx.set(machine.config_write, 0)
        ctx.set(machine.start, 1)
        await ctx.tick()
        ctx.set(machine.start, 0)
        while not ctx.get(machine.running):
            await ctx.tick()
        cycle = 0
        while ctx.get(machine.running):
            if cycle == self.cycle_limit:
                raise InputError(
                    f"the program did not end within {cycle} cycles; a larger cycle_limit lets "
                    "it run on"
                )
            for port in self.ports:
                port.exchange(ctx)
            self._trace(ctx, cycle)
            # A host that is always there.
            ctx.set(machine.sync_ack, ctx.get(machine.sync_valid))
            await ctx.tick()
            cycle += 1
        for _ in range(8):
            for port in self.ports:
                port.exchange(ctx)
            await ctx.tick()
        self.result = await self._collect(ctx)

    def _trace(self, ctx: Any, cycle: int) -> None:
        machine = self.machine
        for which, (name, pulses) in enumerate(
            (("start", machine.trace_starts), ("end", machine.trace_ends))
        ):
            pulse = ctx.get(pulses)
            for unit in Unit:
                if pulse >> unit & 1:
                    pc = ctx.get(getattr(machine, f"trace_{unit.name.lower()}_{name}_pc"))
                    self.times[pc, which] = cycle
        if ctx.get(machine.interrupt_valid):
            self.interrupts.append(ctx.get(machine.interrupt_value))

    async def _collect(self, ctx: Any) -> RunResult:
        machine, arch = self.machine, self.program.arch
        addresses = counter_addresses(used_tags(self.program))
        values = []
        for group, tag, code in addresses:
            ctx.set(machine.read_group, group)
            ctx.set(machine.read_tag, tag)
            ctx.set(machine.read_code, code)
            await ctx.tick().repeat(COUNTER_READ_LATENCY_CYCLES)
            values.append(ctx.get(machine.read_data))
        fault = None
        if ctx.get(machine.faulted):
            fault = Fault(
                cause=FaultCause(ctx.get(machine.fault_cause)),
                unit=Unit(ctx.get(machine.fault_unit)),
                pc=ctx.get(machine.fault_pc),
                cycle=ctx.get(machine.fault_cycle),
            )
        found = {"weight": self.weight}
        if self.memories:
            found |= await self._inspect(ctx, arch)
        return RunResult(
            arch=arch,
            fault=fault,
            windows=self.windows,
            counters=counters_from(addresses, values),
            times=self.times,
            interrupts=self.interrupts,
            status=ctx.get(machine.status),
            memories=found,
        )

    async def _inspect(self, ctx: Any, arch: Arch) -> dict[str, np.ndarray]:
        """Unified buffer and accumulators of the stopped machine."""
        machine, width = self.machine, arch.ub_width_bytes
        ub, accumulators = bytearray(), bytearray()
        for address in range(0, arch.ub_bytes, width):
            ctx.set(machine.inspect_address, address)
            await ctx.tick()
            ub += ctx.get(machine.inspect_ub).to_bytes(width, "little")
        for row in range(arch.accumulator_rows):
            ctx.set(machine.inspect_address, row)
            await ctx.tick()
            accumulators += ctx.get(machine.inspect_accumulators).to_bytes(
                4 * arch.columns, "little"
            )
        return {
            "ub": np.frombuffer(ub, np.uint8),
            "accumulators": rows_of_accumulators(
                np.frombuffer(accumulators, np.uint8), arch.columns
            ),
        }
