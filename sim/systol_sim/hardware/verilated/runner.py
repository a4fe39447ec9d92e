"""Runs programs on the RTL, as Verilator compiled it."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from systol_hw.arch import ALL_WINDOWS, TAGS, MemoryPort
from systol_hw.errors import DifferenceError, InputError
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
from systol_sim.hardware.verilated.build import model_library
from systol_sim.hardware.waves import not_written, waves_format
from systol_sim.results import RunResult
from systol_sim.validity.checker import check

_HALTED, _FAULTED, _LIMIT = range(3)
THREAD = "verilated machine"
"""Name of the thread that runs it."""


class _Run(ctypes.Structure):
    """`SystolRun` of harness.cpp."""

    _fields_ = (
        ("registers", ctypes.c_void_p),
        ("register_count", ctypes.c_int64),
        ("memories", ctypes.c_void_p * (1 + ALL_WINDOWS)),
        ("memory_bytes", ctypes.c_uint64 * (1 + ALL_WINDOWS)),
        ("code_length", ctypes.c_int64),
        ("cycle_limit", ctypes.c_int64),
        ("port_bytes", ctypes.c_int32 * 2),
        ("extra_delay", ctypes.c_int32),
        ("stall_percent", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("counter_addresses", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("counter_count", ctypes.c_int64),
        ("counter_latency", ctypes.c_int64),
        ("ub", ctypes.c_void_p),
        ("ub_bytes", ctypes.c_int64),
        ("ub_row_bytes", ctypes.c_int64),
        ("accumulators", ctypes.c_void_p),
        ("accumulator_rows", ctypes.c_int64),
        ("accumulator_row_bytes", ctypes.c_int64),
        ("waves", ctypes.c_char_p),
        ("times", ctypes.c_void_p),
        ("interrupts", ctypes.c_void_p),
        ("interrupt_count", ctypes.c_int64),
        ("cycles", ctypes.c_int64),
        ("fault_pc", ctypes.c_int64),
        ("fault_cycle", ctypes.c_int64),
        ("status", ctypes.c_int32),
        ("fault_cause", ctypes.c_int32),
        ("fault_unit", ctypes.c_int32),
        ("status_word", ctypes.c_uint32),
        ("waves_error", ctypes.c_int32),
        ("stop", ctypes.c_int32),
    )


@cache
def _load(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.systol_run.argtypes = [ctypes.POINTER(_Run)]
    loaded.systol_run.restype = None
    loaded.systol_run_bytes.restype = ctypes.c_uint64
    assert loaded.systol_run_bytes() == ctypes.sizeof(_Run), "harness.cpp and _Run differ"
    return loaded


def _call(library: ctypes.CDLL, call: _Run, memory: Sequence[np.ndarray]) -> None:
    """Run the machine, in a thread of its own.

    A signal's handler waits until the main thread is back in Python, and one run may take hours.
    So the main thread waits there, and if it is interrupted, asks the run to stop. `memory` is all
    that `call` points to: the thread keeps it, as a second interrupt may end this function first.
    """
    ended = threading.Event()

    def work(_: Sequence[np.ndarray]) -> None:
        library.systol_run(ctypes.byref(call))
        ended.set()

    threading.Thread(target=work, args=(memory,), name=THREAD, daemon=True).start()
    try:
        ended.wait()
    finally:
        call.stop = 1
        while not ended.is_set():  # a waveform file is closed when this returns
            with contextlib.suppress(KeyboardInterrupt):
                ended.wait()


def run(
    program: Program,
    contents: Mapping[str, np.ndarray] | None = None,
    *,
    watchdog_cycles: int | None = None,
    checked: bool = False,
    packed: bool = True,
    weight_port: MemoryPort | None = None,
    host_port: MemoryPort | None = None,
    cycle_limit: int = 1 << 40,
    extra_delay: int = 0,
    stall_percent: int = 0,
    seed: int = 0,
    memories: bool = True,
    waves: Path | None = None,
) -> RunResult:
    """Run `program` on the RTL.

    The first run on a machine builds its model (`systol_sim.hardware.verilated.build`).

    Parameters
    ----------
    program
        The program and its machine.
    contents
        Initial contents of host windows, by name; the rest is zero.
    watchdog_cycles
        Cycles without progress after which the machine faults; None takes the default for the
        ports as they are set (`systol_hw.tables.registers.default_watchdog_cycles`).
    checked
        True if the caller knows that `program` is valid, or wants its fault: no static check.
    packed
        Recipe of the array's products; the results are the same.
    weight_port, host_port
        Bandwidth and latency other than the machine's own; widths are built in.
    cycle_limit
        Cycles after which the run is given up.
    extra_delay, stall_percent, seed
        Real memories: responses up to so many cycles late, and requests not accepted in so many
        percent of the cycles, at random; a `sync_host` is then acknowledged some time later, and
        not at once. `late_cycles` counts what the pacer could not hide.
    memories
        Whether to read back the unified buffer and the accumulators.
    waves
        A .vcd or .fst file to draw the run's signals into: cycle t begins at t ns. The model that
        can do that is another one, built on its first use; in it, blocks that are compiled once
        show their ports only.

    Raises
    ------
    InvalidProgramError
        If the static checker refuses `program`.
    ConfigurationError
        If a register cannot hold what was asked for.
    MissingToolError
        If the model has to be built and a tool is missing.
    InputError
        If the program does not end within `cycle_limit`, or `waves` cannot be written.
    """
    if not checked:
        check(program)
    wave_format = "" if waves is None else waves_format(waves)
    if not 0 <= stall_percent < 100 or not 0 <= extra_delay < 1 << 31:
        raise InputError(
            f"stall_percent must lie in 0..99 and extra_delay must not be negative, not "
            f"{stall_percent} and {extra_delay}"
        )
    arch = program.arch
    writes = np.array(
        register_writes(
            program,
            watchdog_cycles=watchdog_cycles,
            weight_port=weight_port,
            host_port=host_port,
        ),
        np.uint32,
    )
    windows = program.initial_windows(dict(contents or {}))
    weight = program.initial_weight_memory()
    # Reading a counter takes a cycle. Of the tags that cannot be charged one is read, each in turn.
    tags = {*used_tags(program), len(program.code) % TAGS}
    addresses = counter_addresses(sorted(tags))
    packed_addresses = np.array([g << 8 | t << 4 | c for g, t, c in addresses], np.uint32)
    values = np.zeros(len(addresses), np.int64)
    times = np.full((len(program.code), 2), -1, np.int64)
    interrupts = np.zeros(max(1, len(program.code)), np.uint32)
    ub = np.zeros(arch.ub_bytes, np.uint8)
    accumulators = np.zeros(arch.accumulator_rows * arch.columns * 4, np.uint8)

    call = _Run(
        registers=writes.ctypes.data,
        register_count=len(writes),
        code_length=len(program.code),
        cycle_limit=cycle_limit,
        extra_delay=extra_delay,
        stall_percent=stall_percent,
        seed=seed + 1,
        counter_addresses=packed_addresses.ctypes.data,
        counters=values.ctypes.data,
        counter_count=len(addresses),
        counter_latency=COUNTER_READ_LATENCY_CYCLES,
        ub=ub.ctypes.data if memories else None,
        ub_bytes=arch.ub_bytes,
        ub_row_bytes=arch.ub_width_bytes,
        accumulators=accumulators.ctypes.data if memories else None,
        accumulator_rows=arch.accumulator_rows,
        accumulator_row_bytes=arch.columns * 4,
        times=times.ctypes.data,
        waves=None if waves is None else os.fsencode(waves),
        interrupts=interrupts.ctypes.data,
    )
    for index, memory in enumerate([weight, *windows]):
        call.memories[index] = memory.ctypes.data
        call.memory_bytes[index] = memory.size
    call.port_bytes[0] = arch.weight_port.width_bytes
    call.port_bytes[1] = arch.host_port.width_bytes
    library = model_library(arch, packed=packed, waves=wave_format)
    _call(
        _load(library),
        call,
        [writes, packed_addresses, values, times, interrupts, ub, accumulators, weight, *windows],
    )

    if waves is not None and call.waves_error:
        raise not_written(waves, OSError(call.waves_error, os.strerror(call.waves_error)))
    if call.status == _LIMIT:
        raise InputError(
            f"the program did not end within {cycle_limit} cycles; a larger cycle_limit lets it "
            "run on"
        )
    counters = counters_from(addresses, (int(value) for value in values))
    if counters.cycles != call.cycles:
        raise DifferenceError(
            f"the machine counted {counters.cycles} cycles and the harness {call.cycles}"
        )
    found: dict[str, Any] = {"weight": weight}
    if memories:
        found |= {"ub": ub, "accumulators": rows_of_accumulators(accumulators, arch.columns)}
    return RunResult(
        arch=arch,
        fault=_fault(call) if call.status == _FAULTED else None,
        windows=windows,
        counters=counters,
        times=times,
        interrupts=[int(value) for value in interrupts[: call.interrupt_count]],
        status=call.status_word,
        memories=found,
    )


def _fault(call: _Run) -> Fault:
    return Fault(
        cause=FaultCause(call.fault_cause),
        unit=Unit(call.fault_unit),
        pc=int(call.fault_pc),
        cycle=int(call.fault_cycle),
    )
