"""The reference executor: each instruction in program order, exactly as the table's `doc` says.

Plain int64 numpy, written from `systol_hw.isa.operations` and docs/numerics.md alone; it shares no
arithmetic with the simulator or the RTL, nor its addresses with the checker. It counts no cycles.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from systol_hw.arch import TAGS, WINDOWS
from systol_hw.errors import InputError, InvalidProgramError
from systol_hw.isa import Instruction, decode, decode_fault
from systol_hw.isa.choices import ConfigRegister
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_hw.tables.registers import LARGEST_WATCHDOG_CYCLES
from systol_sim.reference.machine import (
    AMOUNT,
    AddressFault,
    Machine,
    NoTile,
    addresses,
    index,
    signed,
    wrap32,
)
from systol_sim.reference.vector import binary, copy, fill, requantize, table
from systol_sim.results import RunResult
from systol_sim.validity.checker import check


def run(
    program: Program,
    contents: Mapping[str, np.ndarray] | None = None,
    *,
    checked: bool = False,
) -> RunResult:
    """Execute `program` in program order.

    Parameters
    ----------
    contents
        Initial host windows by name (any dtype); what is not given is zero.
    checked
        True if the caller knows that `program` is valid, or wants its fault: no static check.

    Returns
    -------
    RunResult
        Without counters and times. `coverage["amounts"]` is int64 (len(AMOUNTS), TAGS): every
        amount but `fetch_bytes` (a row of -1, because it depends on timing). A fault has cycle -1.
        Tokens and FIFO depth are not modelled: token overflows and deadlocks are not found. An
        instruction of more accesses than the watchdog can be told to wait for is not executed: its
        fault is WATCHDOG.

    Raises
    ------
    InvalidProgramError
        If the static checker refuses `program`; if, unchecked, a matrix instruction finds no tile;
        or if `contents` does not fit the windows.
    InputError
        If an instruction takes more memory than an executor that keeps every element as an int64
        can be given.
    """
    if not checked:
        check(program)
    arch = program.arch
    machine = Machine(
        arch=arch,
        ub=np.zeros(arch.ub_bytes, np.uint8),
        accumulators=np.zeros((arch.accumulator_rows, arch.columns), np.int64),
        weight=program.initial_weight_memory(),
        windows=program.initial_windows(dict(contents or {})),
        amounts=np.zeros((len(AMOUNTS), TAGS), np.int64),
    )
    machine.amounts[AMOUNT[Unit.CONTROL, "fetch_bytes"]] = -1
    return RunResult(
        arch=arch,
        fault=_execute_all(machine, program),
        windows=machine.windows,
        counters=None,
        times=None,
        interrupts=machine.interrupts,
        status=machine.status,
        memories={
            "ub": machine.ub,
            "accumulators": machine.accumulators.astype(np.int32),
            "weight": machine.weight,
        },
        coverage={"amounts": machine.amounts},
    )


def _execute_all(machine: Machine, program: Program) -> Fault | None:
    for pc in range(len(program.code)):
        data = program.code[pc].tobytes()
        refused = decode_fault(data, machine.arch)
        if refused is not None:
            return Fault(cause=refused[0], unit=Unit.CONTROL, pc=pc, cycle=-1)
        instruction = decode(data)
        if instruction.operation.name == "halt":
            return None
        if _accesses(instruction) > LARGEST_WATCHDOG_CYCLES:
            return Fault(cause=FaultCause.WATCHDOG, unit=Unit.CONTROL, pc=pc, cycle=-1)
        _require_memory(machine, instruction, pc)
        try:
            _EXECUTE[instruction.operation.name](machine, instruction)
        except AddressFault:
            return Fault(cause=FaultCause.ADDRESS, unit=instruction.unit, pc=pc, cycle=-1)
        except NoTile:
            raise InvalidProgramError(
                f"pc {pc}: matmul needs a weight tile and no earlier read_weights has left one "
                "(docs/timing.md 9.4); check the program first"
            ) from None
    return Fault(
        cause=FaultCause.ILLEGAL_INSTRUCTION, unit=Unit.CONTROL, pc=len(program.code), cycle=-1
    )


MOST_ELEMENTS = 1 << 26
"""Of one array: of the accesses of an instruction, or of one step of it."""


def _accesses(i: Instruction) -> int:
    """The fewest accesses that `i` can be: each takes the machine a cycle."""
    loops = [i[f.name] for f in i.operation.fields if _COUNT.fullmatch(f.name)]
    return math.prod(loops)


_COUNT = re.compile(r"(?!parameter)\w*_count|count[01]")


def _require_memory(machine: Machine, i: Instruction, pc: int) -> None:
    if "run_bytes" in i.fields:
        elements = i["count0"] * i["count1"] * i["run_bytes"]
    elif i.unit is Unit.WEIGHTS:
        # Tiles of bytes, an eighth of what others take.
        elements = _accesses(i) * machine.arch.rows * machine.arch.columns // 8
    elif "y_count" in i.fields:
        widest = max(machine.arch.rows, machine.arch.columns)
        elements = i["y_count"] * i["x_count"] * widest
    else:
        return
    if elements > MOST_ELEMENTS:
        raise InputError(
            f"pc {pc}: {i.operation.name} touches {elements:,} elements at once, and the reference "
            f"takes at most {MOST_ELEMENTS:,}; run the program on sim"
        )


# Control


def _nothing(machine: Machine, i: Instruction) -> None:
    """nop; barrier, which program order already keeps."""


def _tag(machine: Machine, i: Instruction) -> None:
    machine.tag = i["tag"]


def _report(machine: Machine, i: Instruction) -> None:
    """interrupt; sync_host, whose host acknowledges at once."""
    machine.interrupts.append(i["value"])


def _set_config(machine: Machine, i: Instruction) -> None:
    # Register 0, the watchdog's limit, matters to times alone.
    if i["register"] == ConfigRegister.STATUS:
        machine.status = i["value"]


# Load and Store


def _memory(machine: Machine, i: Instruction) -> tuple[np.ndarray, str]:
    if "window" not in i.fields:
        return machine.weight, "weight_bytes"
    number = i["window"]
    if i.operation.name.endswith("_alternate"):
        number += WINDOWS
    given = number < len(machine.windows)
    return machine.windows[number] if given else np.zeros(0, np.uint8), "host_bytes"


def _transfer(machine: Machine, i: Instruction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The memory, and the addresses in it and in the unified buffer of all bytes in order."""
    memory, name = _memory(machine, i)
    turn, run_ = index(i["count1"], 0, 3), index(i["count0"], 1, 3)
    byte = index(i["run_bytes"], 2, 3)
    there = i["memory_address"] + turn * i["memory_stride1"] + run_ * i["memory_stride0"] + byte
    here = i["ub_address"] + turn * i["ub_stride1"] + run_ * i["ub_stride0"] + byte
    machine.count(i.unit, name, there.size)
    return (
        memory,
        addresses(there, memory.size).reshape(-1),
        addresses(here, machine.ub.size).reshape(-1),
    )


def _load(machine: Machine, i: Instruction) -> None:
    memory, there, here = _transfer(machine, i)
    machine.ub[here] = memory[there]


def _store(machine: Machine, i: Instruction) -> None:
    memory, there, here = _transfer(machine, i)
    memory[there] = machine.ub[here]


# Weights


def _read_weights(machine: Machine, i: Instruction) -> None:
    arch = machine.arch
    from_ub = i.operation.name == "read_weights_ub"
    source = machine.ub if from_ub else machine.weight
    row_step, column_step = (1, i["row_pitch"]) if i["transpose"] else (i["row_pitch"], 1)
    for n in range(i["n_count"]):
        n_live = i["n_last"] if n == i["n_count"] - 1 else arch.columns
        for outer in range(i["outer_count"]):
            for inner in range(i["inner_count"]):
                k_live = i["k_last"] if inner == i["inner_count"] - 1 else arch.rows
                first = (
                    i["address"]
                    + n * i["n_stride"]
                    + outer * i["outer_stride"]
                    + inner * i["inner_stride"]
                )
                rows, columns = index(k_live, 0, 2), index(n_live, 1, 2)
                where = first + rows * row_step + columns * column_step
                tile = np.zeros((arch.rows, arch.columns), np.int8)  # many may wait
                tile[:k_live, :n_live] = signed(source[addresses(where, source.size)])
                machine.tiles.append((tile, n_live))
                name = "ub_bytes" if from_ub else "weight_bytes"
                machine.count(Unit.WEIGHTS, name, k_live * n_live)


# Matrix


def _matmul(machine: Machine, i: Instruction) -> None:
    for n in range(i["n_count"]):
        for k0 in range(i["k0_count"]):
            for k1 in range(i["k1_count"]):
                for k2 in range(i["k2_count"]):
                    _matmul_step(machine, i, n, k0, k1, k2)


def _matmul_step(machine: Machine, i: Instruction, n: int, k0: int, k1: int, k2: int) -> None:
    arch = machine.arch
    live = i["k_last"] if k2 == i["k2_count"] - 1 else arch.rows
    y, x, b = index(i["y_count"], 0, 3), index(i["x_count"], 1, 3), index(live, 2, 3)
    along = n * i["n_step"] + k1 * i["k1_step"] + k2 * i["k2_step"] + x * i["x_step"]
    position = wrap32(i["p_start"] + along + b)
    address = (
        i["ub_address"] + along + k0 * i["k0_address_step"] + y * i["y_address_step"] + b
    )
    line = i["y_start"] + k0 * i["k0_step"] + y * i["y_step"]
    inside = (line >= 0) & (line < i["y_limit"]) & (position >= 0) & (position < i["p_limit"])
    activation = np.full(inside.shape, i["pad_value"], np.int64)
    where = addresses(np.broadcast_to(address, inside.shape)[inside], machine.ub.size)
    supplied = machine.ub[where]
    activation[inside] = (
        supplied.astype(np.int64) - 128 if i["unsigned_activations"] else signed(supplied)
    )
    row = i["acc_address"] + n * i["acc_n_step"] + y * i["x_count"] + x
    rows = addresses(row, arch.accumulator_rows).reshape(-1)
    if not machine.tiles:
        raise NoTile
    tile, n_live = machine.tiles.pop(0)
    product = activation.reshape(rows.size, live) @ tile[:live].astype(np.int64)
    exact = product << (8 * i["accumulate_shift"])
    added = wrap32(exact)
    overflowed = added != exact
    if i["accumulate"] or k0 or k1 or k2:
        exact = machine.accumulators[rows] + added
        added = wrap32(exact)
        overflowed |= added != exact
    machine.count(Unit.MATRIX, "overflows", int(overflowed.sum()))
    machine.accumulators[rows] = added
    machine.count(Unit.MATRIX, "useful_macs", rows.size * live * n_live)
    machine.count(Unit.MATRIX, "padding_macs", int((~inside).sum()) * n_live)


_EXECUTE = {
    "nop": _nothing,
    "barrier": _nothing,
    "tag": _tag,
    "interrupt": _report,
    "sync_host": _report,
    "set_config": _set_config,
    "read_host": _load,
    "read_host_alternate": _load,
    "read_weight_memory": _load,
    "write_host": _store,
    "write_host_alternate": _store,
    "write_weight_memory": _store,
    "read_weights": _read_weights,
    "read_weights_ub": _read_weights,
    "matmul": _matmul,
    "requantize": requantize,
    "copy": copy,
    "fill": fill,
    "binary": binary,
    "table": table,
}
