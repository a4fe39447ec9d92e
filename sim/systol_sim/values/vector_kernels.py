"""Compiled loops of the fast values: every vector operation, a row of channels at a time.

Rounding is that of binary64: each product is exact there (less than 2**53), scaling by a power of
two is exact, and rounding to an integer is half to even. Rows are written in the machine's order,
plane by plane. Nothing checks bounds. Addresses are modulo 2**32.
"""

import math

import numpy as np

from systol_hw.isa.choices import Function, Reduce, ResultWidth, TableWidth
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_sim.jit.compiled import compiled

MASK = 0xFFFFFFFF
# numba compiles plain numbers.
_MAX_OF_TAPS, _MEAN = int(Reduce.MAX), int(Reduce.MEAN)
_BYTE, _RAW, _BYTES = int(ResultWidth.BYTE), int(ResultWidth.RAW), int(TableWidth.BYTES)
_ADD, _MUL, _MIN = int(Function.ADD), int(Function.MUL), int(Function.MIN)

FIELDS = (
    "a_width", "width", "zero_point", "low", "high", "a_address", "a_n_step", "a_y_step",
    "a_x_step", "a_plane_step", "y_count", "x_count", "n_count", "n_last", "out_address",
    "out_n_step", "out_y_step", "out_x_step", "out_plane_step",
)  # fmt: skip
"""The first arguments of every operation."""
(
    A_WIDTH, WIDTH, ZERO_POINT, LOW, HIGH, A_ADDRESS, A_N_STEP, A_Y_STEP,
    A_X_STEP, A_PLANE_STEP, Y_COUNT, X_COUNT, N_COUNT, N_LAST, OUT_ADDRESS,
    OUT_N_STEP, OUT_Y_STEP, OUT_X_STEP, OUT_PLANE_STEP,
) = range(19)  # fmt: skip

WINDOW_FIELDS = (
    *FIELDS, "source_ub", "reduce", "a_ky_step", "a_kx_step", "y_start", "x_start", "y_limit",
    "x_limit", "y_step", "x_step", "ky_step", "kx_step", "ky_count", "kx_count",
    "parameter_address", "parameter_count",
)  # fmt: skip
"""The arguments of requantize, copy and fill."""
(
    SOURCE_UB, REDUCE, A_KY_STEP, A_KX_STEP, Y_START, X_START, Y_LIMIT,
    X_LIMIT, Y_STEP, X_STEP, KY_STEP, KX_STEP, KY_COUNT, KX_COUNT,
    PARAMETER_ADDRESS, PARAMETER_COUNT,
) = range(19, 35)  # fmt: skip

BINARY_FIELDS = (
    *FIELDS, "function", "b_width", "a_zero_point", "b_zero_point", "a_multiplier",
    "b_multiplier", "shift", "b_address", "b_n_step", "b_y_step", "b_x_step", "b_plane_step",
)  # fmt: skip
(
    FUNCTION, B_WIDTH, A_ZERO_POINT, B_ZERO_POINT, A_MULTIPLIER,
    B_MULTIPLIER, B_SHIFT, B_ADDRESS, B_N_STEP, B_Y_STEP, B_X_STEP, B_PLANE_STEP,
) = range(19, 31)  # fmt: skip

TABLE_FIELDS = (*FIELDS, "table_width", "shift", "table_address")
TABLE_WIDTH, TABLE_SHIFT, TABLE_ADDRESS = range(19, 22)


@compiled
def _read(ub, address, width, plane_step, values):  # type: ignore[no-untyped-def]
    """A row of an operand in the unified buffer."""
    low = ub[address & MASK :]
    if width == _BYTE:
        for c in range(values.size):
            values[c] = np.int8(low[c])
        return
    high = ub[address + plane_step * PLANE_UNIT_BYTES & MASK :]
    for c in range(values.size):
        values[c] = 256 * np.int32(np.int8(high[c])) + np.int32(np.int8(low[c]))


@compiled
def _write(ub, address, f, values):  # type: ignore[no-untyped-def]
    """Store a row of results (integers in float64); returns how many left the output's range."""
    width, low, high = f[WIDTH], np.float64(f[LOW]), np.float64(f[HIGH])
    least, most = (-128.0, 127.0) if width == _BYTE else (-32639.0, 32639.0)
    saturated = 0
    first = ub[address & MASK :]
    if width == _BYTE:
        for c in range(values.size):
            q = values[c]
            saturated += (q < least) | (q > most)
            first[c] = np.uint8(np.int32(min(max(min(max(q, low), high), least), most)))
        return saturated
    second = ub[address + f[OUT_PLANE_STEP] * PLANE_UNIT_BYTES & MASK :]
    for c in range(values.size):
        q = values[c]
        saturated += (q < least) | (q > most)
        first[c] = np.uint8(np.int32(min(max(min(max(q, low), high), least), most)))
    # The low plane is written first: where planes overlap, the high one stays.
    for c in range(values.size):
        q = min(max(min(max(values[c], low), high), least), most)
        second[c] = np.uint8((np.int32(q) + 128) >> 8)
    return saturated


@compiled
def _write_raw(ub, address, f, values):  # type: ignore[no-untyped-def]
    """Store the four bytes of each of `values`, int32."""
    for plane in range(4):
        target = ub[address + plane * f[OUT_PLANE_STEP] * PLANE_UNIT_BYTES & MASK :]
        for c in range(values.size):
            target[c] = np.uint8(values[c] >> (8 * plane))


@compiled
def _window(ub, accumulators, f, n, y, x, values, operand):  # type: ignore[no-untyped-def]
    """The window's value of a row (int32, wrapped) in `values`; returns the taps inside."""
    sums = f[REDUCE] != _MAX_OF_TAPS
    for c in range(values.size):
        values[c] = 0 if sums else -(1 << 31)
    taps = 0
    base = f[A_ADDRESS] + n * f[A_N_STEP] + y * f[A_Y_STEP] + x * f[A_X_STEP]
    for ky in range(f[KY_COUNT]):
        line = f[Y_START] + y * f[Y_STEP] + ky * f[KY_STEP]
        if line < 0 or line >= f[Y_LIMIT]:
            continue
        for kx in range(f[KX_COUNT]):
            column = f[X_START] + x * f[X_STEP] + kx * f[KX_STEP]
            if column < 0 or column >= f[X_LIMIT]:
                continue
            taps += 1
            place = base + ky * f[A_KY_STEP] + kx * f[A_KX_STEP]
            if f[SOURCE_UB]:
                _read(ub, place, f[A_WIDTH], f[A_PLANE_STEP], operand)
                source = operand
            else:
                source = accumulators[place & MASK]
            if sums:
                for c in range(values.size):
                    values[c] += source[c]
            else:
                for c in range(values.size):
                    values[c] = max(values[c], source[c])
    return taps


@compiled
def _parameters(ub, address, biases, scales):  # type: ignore[no-untyped-def]
    """Biases, and multiplier / 2**shift, which binary64 holds exactly."""
    data = ub[address & MASK :]
    for entry in range(biases.size):
        raw = data[8 * entry : 8 * entry + 8]
        bias = np.int64(raw[0]) | np.int64(raw[1]) << 8 | np.int64(raw[2]) << 16
        biases[entry] = bias | np.int64(np.int8(raw[3])) << 24
        bits = np.int64(raw[4]) | np.int64(raw[5]) << 8 | np.int64(raw[6] & 3) << 16
        multiplier = bits - (bits >> 17 << 18)
        scales[entry] = math.ldexp(np.float64(multiplier), -int(raw[7] & 63))


@compiled
def requantize(ub, accumulators, f):  # type: ignore[no-untyped-def]
    """Returns overflows and saturations."""
    columns = accumulators.shape[1]
    mean = f[REDUCE] == _MEAN
    entries = f[PARAMETER_COUNT] if mean else columns
    biases, scales = np.empty(entries, np.int64), np.empty(entries, np.float64)
    all_values, all_operands = np.empty(columns, np.int32), np.empty(columns, np.int32)
    all_results = np.empty(columns, np.float64)
    zero_point = np.float64(f[ZERO_POINT])
    overflows = saturations = 0
    if mean:
        _parameters(ub, f[PARAMETER_ADDRESS], biases, scales)
    for n in range(f[N_COUNT]):
        live = f[N_LAST] if n == f[N_COUNT] - 1 else columns
        values, operand, results = all_values[:live], all_operands[:live], all_results[:live]
        if not mean:
            address = f[PARAMETER_ADDRESS] + 8 * columns * n
            _parameters(ub, address, biases[:live], scales[:live])
        for y in range(f[Y_COUNT]):
            for x in range(f[X_COUNT]):
                taps = _window(ub, accumulators, f, n, y, x, values, operand)
                if mean:
                    entry = min(max(taps, 1), entries) - 1
                    bias, scale = biases[entry], scales[entry]
                    for c in range(live):
                        total = np.int64(values[c]) + bias
                        wrapped = np.int32(total)
                        overflows += np.int64(wrapped) != total
                        results[c] = np.rint(np.float64(wrapped) * scale) + zero_point
                else:
                    for c in range(live):
                        total = np.int64(values[c]) + biases[c]
                        wrapped = np.int32(total)
                        overflows += np.int64(wrapped) != total
                        results[c] = np.rint(np.float64(wrapped) * scales[c]) + zero_point
                out = f[OUT_ADDRESS] + n * f[OUT_N_STEP] + y * f[OUT_Y_STEP] + x * f[OUT_X_STEP]
                saturations += _write(ub, out, f, results)
    return overflows, saturations


@compiled
def copy(ub, accumulators, f, fills):  # type: ignore[no-untyped-def]
    """copy; or with `fills` fill, whose values are the zero point."""
    columns = accumulators.shape[1]
    all_values, all_operands = np.empty(columns, np.int32), np.empty(columns, np.int32)
    all_results = np.empty(columns, np.float64)
    for n in range(f[N_COUNT]):
        live = f[N_LAST] if n == f[N_COUNT] - 1 else columns
        values, operand, results = all_values[:live], all_operands[:live], all_results[:live]
        for y in range(f[Y_COUNT]):
            for x in range(f[X_COUNT]):
                if fills:
                    values[:] = f[ZERO_POINT]
                else:
                    _window(ub, accumulators, f, n, y, x, values, operand)
                out = f[OUT_ADDRESS] + n * f[OUT_N_STEP] + y * f[OUT_Y_STEP] + x * f[OUT_X_STEP]
                if f[WIDTH] == _RAW:
                    _write_raw(ub, out, f, values)
                    continue
                for c in range(live):
                    results[c] = np.float64(values[c])
                _write(ub, out, f, results)


@compiled
def binary(ub, columns, f):  # type: ignore[no-untyped-def]
    """Returns the saturations."""
    all_a, all_b = np.empty(columns, np.int32), np.empty(columns, np.int32)
    all_results = np.empty(columns, np.float64)
    a_scale, b_scale = np.float64(f[A_MULTIPLIER]), np.float64(f[B_MULTIPLIER])
    unit, zero_point = math.ldexp(1.0, -f[B_SHIFT]), np.float64(f[ZERO_POINT])
    function = f[FUNCTION]
    saturations = 0
    for n in range(f[N_COUNT]):
        live = f[N_LAST] if n == f[N_COUNT] - 1 else columns
        row_a, row_b, results = all_a[:live], all_b[:live], all_results[:live]
        for y in range(f[Y_COUNT]):
            for x in range(f[X_COUNT]):
                place = f[A_ADDRESS] + n * f[A_N_STEP] + y * f[A_Y_STEP] + x * f[A_X_STEP]
                _read(ub, place, f[A_WIDTH], f[A_PLANE_STEP], row_a)
                place = f[B_ADDRESS] + n * f[B_N_STEP] + y * f[B_Y_STEP] + x * f[B_X_STEP]
                _read(ub, place, f[B_WIDTH], f[B_PLANE_STEP], row_b)
                for c in range(live):
                    a = np.float64(row_a[c] - f[A_ZERO_POINT]) * a_scale
                    b = np.float64(row_b[c] - f[B_ZERO_POINT])
                    if function == _ADD:
                        r = a + b * b_scale
                    elif function == _MUL:
                        r = a * b
                    elif function == _MIN:
                        r = min(a, b * b_scale)
                    else:
                        r = max(a, b * b_scale)
                    results[c] = np.rint(r * unit) + zero_point
                out = f[OUT_ADDRESS] + n * f[OUT_N_STEP] + y * f[OUT_Y_STEP] + x * f[OUT_X_STEP]
                saturations += _write(ub, out, f, results)
    return saturations


@compiled
def table(ub, columns, f):  # type: ignore[no-untyped-def]
    """Returns the saturations."""
    # Value and slope of each entry; a byte table's slope is zero.
    knots, slopes = np.empty(256, np.int32), np.zeros(256, np.int32)
    data = ub[f[TABLE_ADDRESS] & MASK :]
    for entry in range(256):
        if f[TABLE_WIDTH] == _BYTES:
            knots[entry] = np.int8(data[entry])
            continue
        knots[entry] = np.int32(data[2 * entry]) | np.int32(np.int8(data[2 * entry + 1])) << 8
        following = np.int32(data[2 * entry + 2]) | np.int32(np.int8(data[2 * entry + 3])) << 8
        slopes[entry] = following - knots[entry]
    all_a, all_results = np.empty(columns, np.int32), np.empty(columns, np.float64)
    unit, zero_point = math.ldexp(1.0, -f[TABLE_SHIFT]), np.float64(f[ZERO_POINT])
    saturations = 0
    for n in range(f[N_COUNT]):
        live = f[N_LAST] if n == f[N_COUNT] - 1 else columns
        row, results = all_a[:live], all_results[:live]
        for y in range(f[Y_COUNT]):
            for x in range(f[X_COUNT]):
                place = f[A_ADDRESS] + n * f[A_N_STEP] + y * f[A_Y_STEP] + x * f[A_X_STEP]
                _read(ub, place, f[A_WIDTH], f[A_PLANE_STEP], row)
                for c in range(live):
                    u = (row[c] + 128) << 8
                    if f[A_WIDTH]:
                        u = max(row[c] + 32768, 0)
                    r = 256 * knots[u >> 8] + slopes[u >> 8] * (u & 255)
                    results[c] = np.rint(np.float64(r) * unit) + zero_point
                out = f[OUT_ADDRESS] + n * f[OUT_N_STEP] + y * f[OUT_Y_STEP] + x * f[OUT_X_STEP]
                saturations += _write(ub, out, f, results)
    return saturations
