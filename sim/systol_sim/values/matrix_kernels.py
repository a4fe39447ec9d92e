"""Compiled loops of the fast values: activations and weights as float32 matrices, and their sums.

Loops visit whole runs of contiguous bytes. Nothing checks bounds: programs are valid
(docs/timing.md 9). Addresses are modulo 2**32.
"""

import numpy as np

from systol_sim.jit.compiled import compiled

MASK = 0xFFFFFFFF

ROW_FIELDS = (
    "ub_address", "p_start", "p_limit", "y_start", "y_limit", "x_count", "y_count", "k2_count",
    "k1_count", "k0_count", "x_step", "k2_step", "k1_step", "n_step", "y_step", "k0_step",
    "y_address_step", "k0_address_step", "k_last", "pad_value", "unsigned_activations",
)  # fmt: skip
"""What `gather_rows` is told of a matmul, in this order."""
(
    UB_ADDRESS, P_START, P_LIMIT, Y_START, Y_LIMIT, X_COUNT, Y_COUNT, K2_COUNT,
    K1_COUNT, K0_COUNT, X_STEP, K2_STEP, K1_STEP, N_STEP, Y_STEP, K0_STEP,
    Y_ADDRESS_STEP, K0_ADDRESS_STEP, K_LAST, PAD_VALUE, UNSIGNED,
) = range(21)  # fmt: skip

TILE_FIELDS = (
    "address", "row_pitch", "transpose", "n_count", "outer_count", "inner_count", "n_stride",
    "outer_stride", "inner_stride", "k_last", "n_last",
)  # fmt: skip
"""What `place_tiles` is told of a Weights instruction, in this order."""
(
    T_ADDRESS, T_PITCH, T_TRANSPOSE, T_N_COUNT, T_OUTER_COUNT, T_INNER_COUNT, T_N_STRIDE,
    T_OUTER_STRIDE, T_INNER_STRIDE, T_K_LAST, T_N_LAST,
) = range(11)  # fmt: skip


@compiled
def _convert(source, unsigned, target):  # type: ignore[no-untyped-def]
    """Bytes as the numbers that enter the array."""
    if unsigned:
        for b in range(target.size):
            target[b] = np.float32(np.int32(source[b]) - 128)
    else:
        for b in range(target.size):
            target[b] = np.float32(np.int8(source[b]))


@compiled
def gather_rows(ub, f, n, first_step, end_step, rows, out):  # type: ignore[no-untyped-def]
    """The activations of column tile `n` and reduction steps first_step .. end_step - 1.

    Parameters
    ----------
    ub
        uint8.
    f
        int64, the matmul's `ROW_FIELDS`.
    rows
        Of the array.
    out
        float32 (y_count * x_count, live bytes of the steps), written whole.
    """
    # Steps whose bytes follow each other become one run: offset, input row, address, bytes.
    count = end_step - first_step
    along = np.empty(count, np.int64)
    across = np.empty(count, np.int64)
    lines = np.empty(count, np.int64)
    lengths = np.empty(count, np.int64)
    runs = 0
    for step in range(first_step, end_step):
        k2 = step % f[K2_COUNT]
        k1 = step // f[K2_COUNT] % f[K1_COUNT]
        k0 = step // (f[K2_COUNT] * f[K1_COUNT])
        live = f[K_LAST] if k2 == f[K2_COUNT] - 1 else rows
        offset = n * f[N_STEP] + k1 * f[K1_STEP] + k2 * f[K2_STEP]
        line = k0 * f[K0_STEP]
        address = k0 * f[K0_ADDRESS_STEP]
        last = runs - 1
        if (
            runs > 0
            and lines[last] == line
            and across[last] == address
            and along[last] + lengths[last] == offset
        ):
            lengths[last] += live
            continue
        along[runs], across[runs], lines[runs], lengths[runs] = offset, address, line, live
        runs += 1
    unsigned = f[UNSIGNED] != 0
    pad = np.float32(f[PAD_VALUE])
    row = 0
    for y in range(f[Y_COUNT]):
        for x in range(f[X_COUNT]):
            column = 0
            for run in range(runs):
                length = lengths[run]
                target = out[row, column : column + length]
                column += length
                line = f[Y_START] + lines[run] + y * f[Y_STEP]
                offset = along[run] + x * f[X_STEP]
                p = (f[P_START] + offset + (1 << 31) & MASK) - (1 << 31)
                low = min(max(-p, 0), length)
                high = min(max(f[P_LIMIT] - p, low), length)
                if line < 0 or line >= f[Y_LIMIT]:
                    low = high = length
                for b in range(low):
                    target[b] = pad
                if high > low:
                    address = f[UB_ADDRESS] + offset + across[run] + y * f[Y_ADDRESS_STEP] + low
                    address &= MASK
                    _convert(ub[address : address + high - low], unsigned, target[low:high])
                for b in range(high, length):
                    target[b] = pad
            row += 1


@compiled
def place_tiles(  # type: ignore[no-untyped-def]
    memory, f, first, begin, end, rows, columns, steps, k2_count, k_last, n_first, first_step, out,
    left, width,
):
    """Tiles of one Weights instruction at their places in a matmul's matrix of weights.

    Parameters
    ----------
    memory
        uint8.
    f
        int64, the Weights instruction's `TILE_FIELDS`.
    first
        The instruction's tile that the matmul's tile `begin` is.
    begin, end
        Of the matmul's tiles (n * steps + step) those that come from here.
    steps, k2_count, k_last
        Of the matmul.
    n_first, first_step
        The matmul's column tile and reduction step that `out` begins with.
    out
        float32 (live rows of the steps, columns), zero where no tile is live; `width` columns from
        `left` on are the matmul's.
    """
    per_n = f[T_OUTER_COUNT] * f[T_INNER_COUNT]
    per_k2 = (k2_count - 1) * rows + k_last
    origin = first_step // k2_count * per_k2 + first_step % k2_count * rows
    tile_columns = -(-width // columns)
    for n in range(n_first, n_first + tile_columns):
        step = first_step
        top = 0
        while top < out.shape[0]:
            top = step // k2_count * per_k2 + step % k2_count * rows - origin
            if top >= out.shape[0]:
                break
            tile = n * steps + step
            step += 1
            if tile < begin or tile >= end:
                continue
            place = first + tile - begin
            tile_n = place // per_n
            inner = place % f[T_INNER_COUNT]
            outer = place % per_n // f[T_INNER_COUNT]
            k_live = f[T_K_LAST] if inner == f[T_INNER_COUNT] - 1 else rows
            n_live = f[T_N_LAST] if tile_n == f[T_N_COUNT] - 1 else columns
            address = (
                f[T_ADDRESS] + tile_n * f[T_N_STRIDE] + outer * f[T_OUTER_STRIDE]
                + inner * f[T_INNER_STRIDE]
            )
            side = left + (n - n_first) * columns
            if f[T_TRANSPOSE]:
                for c in range(n_live):
                    line = (address + c * f[T_PITCH]) & MASK
                    for r in range(k_live):
                        out[top + r, side + c] = np.float32(np.int8(memory[line + r]))
            else:
                for r in range(k_live):
                    line = (address + r * f[T_PITCH]) & MASK
                    target = out[top + r, side : side + n_live]
                    _convert(memory[line : line + n_live], False, target)


@compiled
def stays_within(reach, first, n_step, n_count, rows, growth, replace):  # type: ignore[no-untyped-def]
    """Whether sums of at most `growth` cannot leave 32 bits; if so, note how far they can reach.

    `reach` bounds the magnitude of what each accumulator row holds: int64 (accumulator_rows,).
    """
    if growth >= 1 << 31:
        return False
    if not replace:
        for n in range(n_count):
            for row in range(first + n * n_step, first + n * n_step + rows):
                if reach[row] + growth >= 1 << 31:
                    return False
    for n in range(n_count):
        for row in range(first + n * n_step, first + n * n_step + rows):
            reach[row] = growth if replace else reach[row] + growth
    return True


@compiled
def add_products(  # type: ignore[no-untyped-def]
    accumulators, products, left, width, first, n_step, factor, replace
):
    """Add products to accumulators where nothing can leave 32 bits.

    Parameters
    ----------
    accumulators
        int32 (accumulator_rows, columns).
    products
        float32 (rows, columns); `width` columns from `left` on are those of column tiles, which
        count `factor` times.
    first, n_step
        The first accumulator row, and rows from column tile to column tile.
    replace
        Set the accumulators instead, those of other columns to 0.
    """
    columns = accumulators.shape[1]
    for n in range(-(-width // columns)):
        live = min(columns, width - n * columns)
        for row in range(products.shape[0]):
            source = products[row, left + n * columns : left + n * columns + live]
            target = accumulators[first + n * n_step + row]
            if replace:
                for c in range(live):
                    target[c] = np.int32(source[c]) * factor
                for c in range(live, columns):
                    target[c] = 0
            else:
                for c in range(live):
                    target[c] += np.int32(source[c]) * factor


@compiled
def add_counted(  # type: ignore[no-untyped-def]
    accumulators, products, left, width, first, n_step, factor, replace
):
    """As `add_products` for anything; returns the number of sums that left 32 bits."""
    columns = accumulators.shape[1]
    outside = 0
    for n in range(-(-width // columns)):
        live = min(columns, width - n * columns)
        for row in range(products.shape[0]):
            source = products[row, left + n * columns : left + n * columns + live]
            target = accumulators[first + n * n_step + row]
            for c in range(live):
                exact = np.int64(source[c]) * np.int64(factor)
                added = np.int64(np.int32(exact))
                total = added if replace else added + np.int64(target[c])
                wrapped = np.int32(total)
                target[c] = wrapped
                outside += (added != exact) | (np.int64(wrapped) != total)
            if replace:
                for c in range(live, columns):
                    target[c] = 0
    return outside
