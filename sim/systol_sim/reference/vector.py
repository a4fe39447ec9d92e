"""The reference executor's vector operations: each channel group as one int64 array.

Arrays have the shape (y_count, x_count, channels); steps and rounding follow docs/numerics.md 3
to 5.
"""

import numpy as np

from systol_hw.isa import Instruction
from systol_hw.isa.choices import Function, Reduce, ResultWidth, TableWidth
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.tables.faults import Unit
from systol_sim.reference.machine import Machine, addresses, index, signed, wrap32

_LIMITS = {ResultWidth.BYTE: (-128, 127), ResultWidth.WIDE: (-32639, 32639)}
"""What results saturate to, by `width`."""


def _channels(machine: Machine, i: Instruction, n: int) -> int:
    return i["n_last"] if n == i["n_count"] - 1 else machine.arch.columns


def _elements(i: Instruction, name: str, n: int, channels: int) -> np.ndarray:
    """Byte addresses of plane 0 of operand `name`: `a`, `b` or `out`."""
    return np.asarray(
        i[f"{name}_address"]
        + n * i[f"{name}_n_step"]
        + index(i["y_count"], 0, 3) * i[f"{name}_y_step"]
        + index(i["x_count"], 1, 3) * i[f"{name}_x_step"]
        + index(channels, 2, 3)
    )


def _read(machine: Machine, i: Instruction, name: str, where: np.ndarray) -> np.ndarray:
    """Values of operand `name` in the unified buffer, plane 0 of which is at `where`."""
    values = signed(machine.ub[addresses(where, machine.ub.size)])
    if i[f"{name}_width"]:
        high = where + PLANE_UNIT_BYTES * i[f"{name}_plane_step"]
        values += 256 * signed(machine.ub[addresses(high, machine.ub.size)])
    return values


def _write(machine: Machine, i: Instruction, n: int, values: np.ndarray) -> None:
    """Store results, which fit the output's width, plane by plane within each row."""
    if i["width"] == ResultWidth.WIDE:
        low = (values + 128) % 256 - 128
        planes = [low, (values - low) // 256]
    else:
        planes = [values >> (8 * plane) for plane in range(ResultWidth(i["width"]).planes)]
    where = _elements(i, "out", n, values.shape[2])
    step = PLANE_UNIT_BYTES * i["out_plane_step"]
    # Axes (y, x, plane, channel): the order in which the machine writes, where bytes repeat.
    all_places = np.stack([where + plane * step for plane in range(len(planes))], axis=2)
    places = addresses(all_places, machine.ub.size)
    machine.ub[places.reshape(-1)] = (np.stack(planes, axis=2) % 256).reshape(-1)
    machine.count(Unit.VECTOR, "elements", values.size)


def _taps(
    machine: Machine, i: Instruction, n: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """v of the table's doc; and the taps inside the window, int64 (y_count, x_count)."""
    y, x, c = index(i["y_count"], 0, 3), index(i["x_count"], 1, 3), index(channels, 2, 3)
    shape = (i["y_count"], i["x_count"], channels)
    result = np.full(shape, -(1 << 31) if i["reduce"] == Reduce.MAX else 0, np.int64)
    taps = np.zeros(shape[:2], np.int64)
    for ky in range(i["ky_count"]):
        for kx in range(i["kx_count"]):
            line = i["y_start"] + y * i["y_step"] + ky * i["ky_step"]
            column = i["x_start"] + x * i["x_step"] + kx * i["kx_step"]
            inside = (0 <= line) & (line < i["y_limit"]) & (0 <= column) & (column < i["x_limit"])
            inside = np.broadcast_to(inside, (*shape[:2], 1))[:, :, 0]
            place = (
                i["a_address"]
                + n * i["a_n_step"]
                + y * i["a_y_step"]
                + x * i["a_x_step"]
                + ky * i["a_ky_step"]
                + kx * i["a_kx_step"]
            )
            if i["source_ub"]:
                operand = _read(machine, i, "a", (place + c)[inside])
            else:
                rows = addresses(place[inside][:, 0], machine.arch.accumulator_rows)
                operand = machine.accumulators[rows][:, :channels]
            if i["reduce"] == Reduce.MAX:
                result[inside] = np.maximum(result[inside], operand)
            else:
                result[inside] += operand
            taps += inside
    return wrap32(result), taps


def _parameters(
    machine: Machine, first: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bias, multiplier and shift of `count` entries from byte `first` on: int64 (count,)."""
    where = addresses(first + np.arange(8 * count), machine.ub.size)
    data = machine.ub[where].astype(np.int64).reshape(count, 8)
    bias = wrap32(data[:, 0] + (data[:, 1] << 8) + (data[:, 2] << 16) + (data[:, 3] << 24))
    multiplier = data[:, 4] + (data[:, 5] << 8) + ((data[:, 6] & 3) << 16)
    multiplier[multiplier >= 1 << 17] -= 1 << 18
    return bias, multiplier, data[:, 7] & 63


def _divide_half_even(product: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """product / 2**shift, ties to even; |product| < 2**49 and 0 <= shift <= 63."""
    # From 2**50 on the quotient is less than one half, which rounds to zero as with shift 50.
    shift = np.minimum(shift, 50)
    floor = product >> shift
    rest = 2 * (product - (floor << shift))
    one = np.int64(1) << shift
    up: np.ndarray = (rest > one) | ((rest == one) & (floor % 2 == 1))
    return np.asarray(floor + up)


def _finish(machine: Machine, i: Instruction, n: int, q: np.ndarray) -> None:
    """Clip, saturate, count and store rounded results that have their zero point."""
    least, most = _LIMITS[ResultWidth(i["width"])]
    machine.count(Unit.VECTOR, "saturations", int(((q < least) | (q > most)).sum()))
    clipped = np.minimum(np.maximum(q, i["low"]), i["high"])
    _write(machine, i, n, np.clip(clipped, least, most))


def requantize(machine: Machine, i: Instruction) -> None:
    """Window, bias, scale, rounding."""
    for n in range(i["n_count"]):
        channels = _channels(machine, i, n)
        value, taps = _taps(machine, i, n, channels)
        if i["reduce"] == Reduce.MEAN:
            entries = _parameters(machine, i["parameter_address"], i["parameter_count"])
            chosen = np.minimum(np.maximum(taps, 1), i["parameter_count"]) - 1
            bias, multiplier, shift = (entry[chosen][:, :, None] for entry in entries)
        else:
            first = i["parameter_address"] + 8 * machine.arch.columns * n
            bias, multiplier, shift = _parameters(machine, first, channels)
        total = value + bias
        wrapped = wrap32(total)
        machine.count(Unit.VECTOR, "overflows", int((wrapped != total).sum()))
        q = _divide_half_even(wrapped * multiplier, shift) + i["zero_point"]
        _finish(machine, i, n, q)


def copy(machine: Machine, i: Instruction) -> None:
    """Window; clipped, or raw."""
    for n in range(i["n_count"]):
        value, _ = _taps(machine, i, n, _channels(machine, i, n))
        if i["width"] != ResultWidth.RAW:
            clipped = np.minimum(np.maximum(value, i["low"]), i["high"])
            value = np.clip(clipped, *_LIMITS[ResultWidth(i["width"])])
        _write(machine, i, n, value)


def fill(machine: Machine, i: Instruction) -> None:
    """The zero point everywhere."""
    for n in range(i["n_count"]):
        shape = (i["y_count"], i["x_count"], _channels(machine, i, n))
        _write(machine, i, n, np.full(shape, i["zero_point"], np.int64))


def binary(machine: Machine, i: Instruction) -> None:
    """A function of two operands, each with its own scale."""
    for n in range(i["n_count"]):
        channels = _channels(machine, i, n)
        a = _read(machine, i, "a", _elements(i, "a", n, channels)) - i["a_zero_point"]
        b = _read(machine, i, "b", _elements(i, "b", n, channels)) - i["b_zero_point"]
        scaled_a, scaled_b = a * i["a_multiplier"], b * i["b_multiplier"]
        if i["function"] == Function.ADD:
            r = scaled_a + scaled_b
        elif i["function"] == Function.MUL:
            r = scaled_a * b
        elif i["function"] == Function.MIN:
            r = np.minimum(scaled_a, scaled_b)
        else:
            r = np.maximum(scaled_a, scaled_b)
        _finish(machine, i, n, _divide_half_even(r, i["shift"]) + i["zero_point"])


def table(machine: Machine, i: Instruction) -> None:
    """A function by its values, or by knots and straight lines between them."""
    kind = TableWidth(i["table_width"])
    where = i["table_address"] + np.arange(kind.table_bytes)
    data = machine.ub[addresses(where, machine.ub.size)]
    if kind is TableWidth.KNOTS:
        words = data.astype(np.int64).reshape(kind.entries, 2)
        knots = (words[:, 0] + 256 * words[:, 1] + 32768) % 65536 - 32768
    else:
        knots = signed(data)
    for n in range(i["n_count"]):
        a = _read(machine, i, "a", _elements(i, "a", n, _channels(machine, i, n)))
        u = np.clip(a + 32768, 0, 65535) if i["a_width"] else 256 * (a + 128)
        place, fraction = u // 256, u % 256
        r = 256 * knots[place]
        if kind is TableWidth.KNOTS:
            r += (knots[place + 1] - knots[place]) * fraction
        _finish(machine, i, n, _divide_half_even(r, i["shift"]) + i["zero_point"])
