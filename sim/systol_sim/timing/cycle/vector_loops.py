"""The loops of vector instructions, one access or pass at a time, for the compiled stepper.

As in `loops`: a walker is a row `w` of int64, `row` the instruction's table row.
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.state.machine_state import MASK
from systol_sim.timing.state.table_columns import (
    ACCESSES,
    B_FROM_ACCESS,
    B_PLANE_BYTES,
    BINARY,
    FILL,
    KIND,
    OUT_PLANE_BYTES,
    PARAMETERS,
    PASSES,
    REQUANTIZE,
    SOURCE_PLANE_BYTES,
    TABLE,
    TABLE_BYTES,
    TAPS,
)

TABLE_READ_BYTES = 8
PARAMETER_BYTES = 8

V_N, V_Y, V_X, V_KY, V_KX = range(5)
V_READ, V_ACCESS, V_PASS, V_GRANTED = range(5, 9)
"""Number of the table or parameter read, -1 while there is none; of the access of a tap; of the
pass, 0 for none; mask of the operands (A 1, B 2) that have been read."""
V_A, V_A_N, V_A_Y, V_A_X, V_A_KY = range(9, 14)
V_O_N, V_O_Y, V_O_X, V_B_N, V_B_Y, V_B_X = range(14, 20)
V_LINE, V_COLUMN = 20, 21
"""Input row and column of the current tap."""
V_LIVE = 22


@compiled
def start_taps(row, w, columns):  # type: ignore[no-untyped-def]
    if row[TAPS.x_count] == 1 and row[TAPS.kx_count] == 1:
        _turn(row)
    for place in range(V_LIVE):
        w[place] = 0
    if row[KIND] != REQUANTIZE and row[KIND] != TABLE:
        w[V_READ] = -1
    w[V_LIVE] = group_live(row, w, columns)
    w[V_LINE] = row[TAPS.y_start]
    w[V_COLUMN] = row[TAPS.x_start]


_TURNED = tuple(
    (getattr(TAPS, name), getattr(TAPS, name.replace("y_", "x_")))
    for name in (
        "a_y_step", "a_ky_step", "y_start", "y_limit", "y_step", "ky_step", "ky_count", "y_count",
        "out_y_step", "b_y_step",
    )
)
"""What of lines and of columns takes each other's place."""


@compiled
def _turn(row):  # type: ignore[no-untyped-def]
    """Exchange lines and columns: one column of many lines is walked as one line, access for
    access, so that what is made for long lines (systol_sim.timing.streams.outputs) serves it."""
    for y, x in _TURNED:
        row[y], row[x] = row[x], row[y]


@compiled
def group_live(row, w, columns):  # type: ignore[no-untyped-def]
    """Live channels of the current group."""
    return row[TAPS.n_last] if w[V_N] == row[TAPS.n_count] - 1 else columns


@compiled
def advance_vector(row, w, columns, width):  # type: ignore[no-untyped-def]
    """To the next read, access or pass; True after the last."""
    if w[V_READ] >= 0:
        w[V_READ] += 1
        if row[KIND] == TABLE:
            done = w[V_READ] * TABLE_READ_BYTES >= row[TABLE_BYTES]
        else:
            done = w[V_READ] * width >= parameter_bytes(row, w)
        if done:
            w[V_READ] = -1
        return False
    w[V_GRANTED] = 0
    if w[V_PASS] == 0:
        if w[V_ACCESS] < row[ACCESSES] - 1:
            w[V_ACCESS] += 1
            return False
        w[V_ACCESS] = 0
        if not tap_is_last(row, w):
            advance_tap(row, w)
            return False
    if w[V_PASS] < row[PASSES]:
        w[V_PASS] += 1
        return False
    w[V_PASS] = 0
    return advance_output(row, w, columns)


@compiled
def advance_tap(row, w):  # type: ignore[no-untyped-def]
    """To the next tap of the same output row."""
    w[V_KX] += 1
    w[V_A] += row[TAPS.a_kx_step]
    w[V_COLUMN] += row[TAPS.kx_step]
    if w[V_KX] < row[TAPS.kx_count]:
        return
    w[V_COLUMN] -= w[V_KX] * row[TAPS.kx_step]
    w[V_KX] = 0
    w[V_KY] += 1
    w[V_LINE] += row[TAPS.ky_step]
    w[V_A_KY] += row[TAPS.a_ky_step]
    w[V_A] = w[V_A_N] + w[V_A_Y] + w[V_A_X] + w[V_A_KY]


@compiled
def advance_output(row, w, columns):  # type: ignore[no-untyped-def]
    """To the first tap of the next output row; True after the last."""
    w[V_COLUMN] -= w[V_KX] * row[TAPS.kx_step]
    w[V_LINE] -= w[V_KY] * row[TAPS.ky_step]
    w[V_KX] = w[V_KY] = w[V_A_KY] = 0
    w[V_X] += 1
    w[V_A_X] += row[TAPS.a_x_step]
    w[V_O_X] += row[TAPS.out_x_step]
    w[V_B_X] += row[TAPS.b_x_step]
    w[V_COLUMN] += row[TAPS.x_step]
    if w[V_X] >= row[TAPS.x_count]:
        w[V_X] = w[V_A_X] = w[V_O_X] = w[V_B_X] = 0
        w[V_COLUMN] = row[TAPS.x_start]
        w[V_Y] += 1
        w[V_A_Y] += row[TAPS.a_y_step]
        w[V_O_Y] += row[TAPS.out_y_step]
        w[V_B_Y] += row[TAPS.b_y_step]
        w[V_LINE] += row[TAPS.y_step]
        if w[V_Y] >= row[TAPS.y_count]:
            w[V_Y] = w[V_A_Y] = w[V_O_Y] = w[V_B_Y] = 0
            w[V_LINE] = row[TAPS.y_start]
            w[V_N] += 1
            w[V_A_N] += row[TAPS.a_n_step]
            w[V_O_N] += row[TAPS.out_n_step]
            w[V_B_N] += row[TAPS.b_n_step]
            w[V_LIVE] = group_live(row, w, columns)
            if row[KIND] == REQUANTIZE:
                w[V_READ] = 0
    w[V_A] = w[V_A_N] + w[V_A_Y] + w[V_A_X]
    return w[V_N] >= row[TAPS.n_count]


@compiled
def tap_inside(row, w):  # type: ignore[no-untyped-def]
    """Whether the current tap lies inside the window; that of a fill never does (7.3)."""
    if row[KIND] == FILL:
        return False
    if row[KIND] == BINARY or row[KIND] == TABLE:
        return True
    return 0 <= w[V_LINE] < row[TAPS.y_limit] and 0 <= w[V_COLUMN] < row[TAPS.x_limit]


@compiled
def tap_is_last(row, w):  # type: ignore[no-untyped-def]
    """Whether the current tap is the last of its output row."""
    return w[V_KX] == row[TAPS.kx_count] - 1 and w[V_KY] == row[TAPS.ky_count] - 1


@compiled
def writes_plane(row, w):  # type: ignore[no-untyped-def]
    """Whether the current access or pass writes a plane of the output (7.1)."""
    if w[V_READ] >= 0:
        return False
    return w[V_PASS] > 0 or (w[V_ACCESS] == row[ACCESSES] - 1 and tap_is_last(row, w))


@compiled
def reads_a(row, w):  # type: ignore[no-untyped-def]
    """Whether the current access, of a tap inside, reads operand A (7.1)."""
    # With an 8-bit A beside a 16-bit B the first access is B's alone.
    return w[V_ACCESS] == row[ACCESSES] - 1 or row[SOURCE_PLANE_BYTES] >= 0


@compiled
def a_address(row, w):  # type: ignore[no-untyped-def]
    """Byte address or accumulator row of operand A: of the high plane in the first of two."""
    high = row[SOURCE_PLANE_BYTES] if w[V_ACCESS] < row[ACCESSES] - 1 else 0
    return (row[TAPS.a_address] + w[V_A] + high) & MASK


@compiled
def reads_b(row, w):  # type: ignore[no-untyped-def]
    """Whether the current access reads operand B."""
    return row[KIND] == BINARY and w[V_ACCESS] >= row[B_FROM_ACCESS]


@compiled
def b_address(row, w):  # type: ignore[no-untyped-def]
    """Byte address of operand B."""
    high = row[B_PLANE_BYTES] if w[V_ACCESS] < row[ACCESSES] - 1 else 0
    return (row[TAPS.b_address] + w[V_B_N] + w[V_B_Y] + w[V_B_X] + high) & MASK


@compiled
def out_address(row, w):  # type: ignore[no-untyped-def]
    """First byte of the plane of the current output row that is written next."""
    plane = w[V_PASS] * row[OUT_PLANE_BYTES]
    return (row[TAPS.out_address] + w[V_O_N] + w[V_O_Y] + w[V_O_X] + plane) & MASK


@compiled
def parameter_bytes(row, w):  # type: ignore[no-untyped-def]
    """Bytes of parameters that a group of `requantize` reads."""
    return PARAMETER_BYTES * (row[PARAMETERS] if row[PARAMETERS] > 0 else w[V_LIVE])


@compiled
def setup_read(row, w, columns, width):  # type: ignore[no-untyped-def]
    """(address, bytes) of the current table or parameter read."""
    if row[KIND] == TABLE:
        offset = w[V_READ] * TABLE_READ_BYTES
        return (row[TAPS.table_address] + offset) & MASK, min(
            TABLE_READ_BYTES, row[TABLE_BYTES] - offset
        )
    offset = w[V_READ] * width
    # Those of mean do not belong to the channels: every group reads the same.
    group = 0 if row[PARAMETERS] > 0 else w[V_N] * PARAMETER_BYTES * columns
    first = row[TAPS.parameter_address]
    return (first + group + offset) & MASK, min(width, parameter_bytes(row, w) - offset)
