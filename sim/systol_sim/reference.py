"""The reference executor: each instruction in program order, exactly as the table's `doc` says.

Plain int64 numpy, written from `systol_hw.operations` and docs/numerics.md alone; it shares no
arithmetic with the simulator or the RTL, nor its addresses with the checker. It counts no cycles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from systol_hw.arch import TAGS, Arch
from systol_hw.counters import AMOUNTS
from systol_hw.errors import InvalidProgramError
from systol_hw.faults import Fault, FaultCause, Unit
from systol_hw.isa import Instruction, decode, decode_fault
from systol_hw.program import Program
from systol_sim.checker import check
from systol_sim.results import RunResult

_AMOUNT = {(amount.unit, amount.name): index for index, amount in enumerate(AMOUNTS)}


class _AddressFault(Exception):
    """An access is out of range; the run ends."""


class _NoTile(Exception):
    """A matrix instruction finds the weight FIFO empty."""


@dataclass(kw_only=True, eq=False)
class _Machine:
    arch: Arch
    ub: np.ndarray
    accumulators: np.ndarray
    weight: np.ndarray
    windows: list[np.ndarray]
    tiles: list[tuple[np.ndarray, int]] = field(default_factory=list)
    """The weight FIFO: int64 (rows, columns) each, with its number of live columns."""
    tag: int = 0
    interrupts: list[int] = field(default_factory=list)
    amounts: np.ndarray

    def count(self, unit: Unit, name: str, value: int) -> None:
        self.amounts[_AMOUNT[unit, name], self.tag] += value


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
        Tokens and FIFO depth are not modelled: token overflows and deadlocks are not found.

    Raises
    ------
    InvalidProgramError
        If the static checker refuses `program`; if, unchecked, a matrix instruction finds no tile;
        or if `contents` does not fit the windows.
    """
    if not checked:
        check(program)
    arch = program.arch
    machine = _Machine(
        arch=arch,
        ub=np.zeros(arch.ub_bytes, np.uint8),
        accumulators=np.zeros((arch.accumulator_rows, arch.columns), np.int64),
        weight=program.initial_weight_memory(),
        windows=program.initial_windows(dict(contents or {})),
        amounts=np.zeros((len(AMOUNTS), TAGS), np.int64),
    )
    machine.amounts[_AMOUNT[Unit.CONTROL, "fetch_bytes"]] = -1
    return RunResult(
        arch=arch,
        fault=_execute_all(machine, program),
        windows=machine.windows,
        counters=None,
        times=None,
        interrupts=machine.interrupts,
        memories={
            "ub": machine.ub,
            "accumulators": machine.accumulators.astype(np.int32),
            "weight": machine.weight,
        },
        coverage={"amounts": machine.amounts},
    )


def _execute_all(machine: _Machine, program: Program) -> Fault | None:
    for pc in range(len(program.code)):
        data = program.code[pc].tobytes()
        refused = decode_fault(data, machine.arch)
        if refused is not None:
            return Fault(cause=refused[0], unit=Unit.CONTROL, pc=pc, cycle=-1)
        instruction = decode(data)
        if instruction.operation.name == "halt":
            return None
        try:
            _EXECUTE[instruction.operation.name](machine, instruction)
        except _AddressFault:
            return Fault(cause=FaultCause.ADDRESS, unit=instruction.unit, pc=pc, cycle=-1)
        except _NoTile:
            raise InvalidProgramError(
                f"pc {pc}: matmul needs a weight tile and no earlier read_weights has left one "
                "(docs/timing.md 9.4); check the program first"
            ) from None
    return Fault(
        cause=FaultCause.ILLEGAL_INSTRUCTION, unit=Unit.CONTROL, pc=len(program.code), cycle=-1
    )


def _addresses(values: np.ndarray | int, size: int) -> np.ndarray:
    """`values` modulo 2**32, all of them less than `size`."""
    wrapped = np.asarray(values, np.int64) % (1 << 32)
    if wrapped.size and int(wrapped.max()) >= size:
        raise _AddressFault
    return wrapped


def _index(count: int, axis: int, axes: int) -> np.ndarray:
    """0 .. count-1 along `axis` of `axes`."""
    shape = [1] * axes
    shape[axis] = count
    return np.arange(count, dtype=np.int64).reshape(shape)


def _wrap32(values: np.ndarray) -> np.ndarray:
    return (values + (1 << 31)) % (1 << 32) - (1 << 31)


def _signed(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int8).astype(np.int64)


# Control


def _nothing(machine: _Machine, i: Instruction) -> None:
    """nop; barrier, which program order already keeps."""


def _tag(machine: _Machine, i: Instruction) -> None:
    machine.tag = i["tag"]


def _interrupt(machine: _Machine, i: Instruction) -> None:
    machine.interrupts.append(i["value"])


# Load and Store


def _memory(machine: _Machine, i: Instruction) -> tuple[np.ndarray, str]:
    if "window" not in i.fields:
        return machine.weight, "weight_bytes"
    number = i["window"]
    given = number < len(machine.windows)
    return machine.windows[number] if given else np.zeros(0, np.uint8), "host_bytes"


def _transfer(machine: _Machine, i: Instruction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The memory, and the addresses in it and in the unified buffer of all bytes in order."""
    memory, name = _memory(machine, i)
    turn, run_, byte = _index(i["count1"], 0, 3), _index(i["count0"], 1, 3), _index(
        i["run_bytes"], 2, 3
    )
    there = i["memory_address"] + turn * i["memory_stride1"] + run_ * i["memory_stride0"] + byte
    here = i["ub_address"] + turn * i["ub_stride1"] + run_ * i["ub_stride0"] + byte
    machine.count(i.unit, name, there.size)
    return (
        memory,
        _addresses(there, memory.size).reshape(-1),
        _addresses(here, machine.ub.size).reshape(-1),
    )


def _load(machine: _Machine, i: Instruction) -> None:
    memory, there, here = _transfer(machine, i)
    machine.ub[here] = memory[there]


def _store(machine: _Machine, i: Instruction) -> None:
    memory, there, here = _transfer(machine, i)
    memory[there] = machine.ub[here]


# Weights


def _read_weights(machine: _Machine, i: Instruction) -> None:
    arch = machine.arch
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
                where = first + _index(k_live, 0, 2) * i["row_pitch"] + _index(n_live, 1, 2)
                tile = np.zeros((arch.rows, arch.columns), np.int64)
                tile[:k_live, :n_live] = _signed(
                    machine.weight[_addresses(where, machine.weight.size)]
                )
                machine.tiles.append((tile, n_live))
                machine.count(Unit.WEIGHTS, "weight_bytes", k_live * n_live)


# Matrix


def _matmul(machine: _Machine, i: Instruction) -> None:
    for n in range(i["n_count"]):
        for k0 in range(i["k0_count"]):
            for k1 in range(i["k1_count"]):
                for k2 in range(i["k2_count"]):
                    _matmul_step(machine, i, n, k0, k1, k2)


def _matmul_step(machine: _Machine, i: Instruction, n: int, k0: int, k1: int, k2: int) -> None:
    arch = machine.arch
    live = i["k_last"] if k2 == i["k2_count"] - 1 else arch.rows
    y, x, b = _index(i["y_count"], 0, 3), _index(i["x_count"], 1, 3), _index(live, 2, 3)
    along = n * i["n_step"] + k1 * i["k1_step"] + k2 * i["k2_step"] + x * i["x_step"]
    position = _wrap32(i["p_start"] + along + b)
    address = (
        i["ub_address"] + along + k0 * i["k0_address_step"] + y * i["y_address_step"] + b
    )
    line = i["y_start"] + k0 * i["k0_step"] + y * i["y_step"]
    inside = (line >= 0) & (line < i["y_limit"]) & (position >= 0) & (position < i["p_limit"])
    activation = np.full(inside.shape, i["pad_value"], np.int64)
    activation[inside] = _signed(
        machine.ub[_addresses(np.broadcast_to(address, inside.shape)[inside], machine.ub.size)]
    )
    row = i["acc_address"] + n * i["acc_n_step"] + y * i["x_count"] + x
    rows = _addresses(row, arch.accumulator_rows).reshape(-1)
    if not machine.tiles:
        raise _NoTile
    tile, n_live = machine.tiles.pop(0)
    sums = activation.reshape(rows.size, live) @ tile[:live]
    if i["accumulate"] or k0 or k1 or k2:
        sums += machine.accumulators[rows]
        wrapped = _wrap32(sums)
        machine.count(Unit.MATRIX, "overflows", int((wrapped != sums).sum()))
        sums = wrapped
    machine.accumulators[rows] = sums
    machine.count(Unit.MATRIX, "useful_macs", rows.size * live * n_live)
    machine.count(Unit.MATRIX, "padding_macs", int((~inside).sum()) * n_live)


# Vector


def _channels(machine: _Machine, i: Instruction, n: int) -> int:
    return i["n_last"] if n == i["n_count"] - 1 else machine.arch.columns


def _window_maximum(machine: _Machine, i: Instruction, n: int, channels: int) -> np.ndarray:
    """v of the table's doc: int64 (y_count, x_count, channels)."""
    y, x, c = _index(i["y_count"], 0, 3), _index(i["x_count"], 1, 3), _index(channels, 2, 3)
    result = np.full((i["y_count"], i["x_count"], channels), -(1 << 31), np.int64)
    for ky in range(i["ky_count"]):
        for kx in range(i["kx_count"]):
            line = i["y_start"] + y * i["y_step"] + ky * i["ky_step"]
            column = i["x_start"] + x * i["x_step"] + kx * i["kx_step"]
            inside = (0 <= line) & (line < i["y_limit"]) & (0 <= column) & (column < i["x_limit"])
            inside = np.broadcast_to(inside, (i["y_count"], i["x_count"], 1))[:, :, 0]
            place = (
                i["a_address"]
                + n * i["a_n_step"]
                + y * i["a_y_step"]
                + x * i["a_x_step"]
                + ky * i["a_ky_step"]
                + kx * i["a_kx_step"]
            )
            if i["source_ub"]:
                bytes_ = _addresses((place + c)[inside], machine.ub.size)
                operand = _signed(machine.ub[bytes_])
            else:
                rows = _addresses(place[inside][:, 0], machine.arch.accumulator_rows)
                operand = machine.accumulators[rows][:, :channels]
            result[inside] = np.maximum(result[inside], operand)
    return result


def _write(machine: _Machine, i: Instruction, n: int, values: np.ndarray) -> None:
    channels = values.shape[2]
    where = (
        i["out_address"]
        + n * i["out_n_step"]
        + _index(i["y_count"], 0, 3) * i["out_y_step"]
        + _index(i["x_count"], 1, 3) * i["out_x_step"]
        + _index(channels, 2, 3)
    )
    addresses = _addresses(where, machine.ub.size).reshape(-1)
    machine.ub[addresses] = values.astype(np.int8).view(np.uint8).reshape(-1)
    machine.count(Unit.VECTOR, "elements", values.size)


def _parameters(
    machine: _Machine, i: Instruction, n: int, channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bias, multiplier and shift of each channel of group n: int64 (channels,)."""
    first = i["parameter_address"] + 8 * machine.arch.columns * n
    where = _addresses(first + np.arange(8 * channels), machine.ub.size)
    data = machine.ub[where].astype(np.int64).reshape(channels, 8)
    bias = _wrap32(data[:, 0] + (data[:, 1] << 8) + (data[:, 2] << 16) + (data[:, 3] << 24))
    multiplier = data[:, 4] + (data[:, 5] << 8) + ((data[:, 6] & 3) << 16)
    multiplier[multiplier >= 1 << 17] -= 1 << 18
    return bias, multiplier, data[:, 7] & 63


def _divide_half_even(product: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """product / 2**shift, ties to even; |product| < 2**49 and 0 <= shift <= 63."""
    # From 2**50 on the quotient is less than one half, which rounds to zero as with shift 50.
    shift = np.minimum(shift, 50)
    floor = product >> shift
    rest = 2 * (product - (floor << shift))
    one = np.int64(1) << shift
    up: np.ndarray = (rest > one) | ((rest == one) & (floor % 2 == 1))
    return np.asarray(floor + up)


def _requantize(machine: _Machine, i: Instruction) -> None:
    for n in range(i["n_count"]):
        channels = _channels(machine, i, n)
        bias, multiplier, shift = _parameters(machine, i, n, channels)
        total = _window_maximum(machine, i, n, channels) + bias
        wrapped = _wrap32(total)
        machine.count(Unit.VECTOR, "overflows", int((wrapped != total).sum()))
        q = _divide_half_even(wrapped * multiplier, shift) + i["zero_point"]
        saturated = np.clip(q, -128, 127)
        machine.count(Unit.VECTOR, "saturations", int((saturated != q).sum()))
        _write(machine, i, n, np.minimum(np.maximum(saturated, i["low"]), i["high"]))


def _copy(machine: _Machine, i: Instruction) -> None:
    for n in range(i["n_count"]):
        v = _window_maximum(machine, i, n, _channels(machine, i, n))
        _write(machine, i, n, np.minimum(np.maximum(v, i["low"]), i["high"]))


def _fill(machine: _Machine, i: Instruction) -> None:
    for n in range(i["n_count"]):
        shape = (i["y_count"], i["x_count"], _channels(machine, i, n))
        _write(machine, i, n, np.full(shape, i["zero_point"], np.int64))


_EXECUTE = {
    "nop": _nothing,
    "barrier": _nothing,
    "tag": _tag,
    "interrupt": _interrupt,
    "read_host": _load,
    "read_weight_memory": _load,
    "write_host": _store,
    "write_weight_memory": _store,
    "read_weights": _read_weights,
    "matmul": _matmul,
    "requantize": _requantize,
    "copy": _copy,
    "fill": _fill,
}
