"""Fields of the instructions of one step: pure address arithmetic from shapes."""

from systol_compiler.tiling import Chunk, Step, TiledWork
from systol_compiler.weight_image import WeightPlace
from systol_compiler.work import MatrixWork, PoolWork
from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction
from systol_sim.footprint import ADDRESS_SPAN

_MOST_RUN_BYTES = 1 << 20
_MOST_REPEATS = 4095
_MOST_STEPS = 1 << 16


def transfer(
    operation: str, *, memory: int, ub: int, run_bytes: int, runs: int = 1, pitch: int = 0,
    window: int | None = None,
) -> list[Instruction]:
    """Copies `runs` runs of `run_bytes`, `pitch` bytes apart on both sides.

    Runs that lie back to back become one; a long one is cut into as many instructions as it needs.
    """
    if runs == 1 or pitch == run_bytes:
        run_bytes, runs, pitch = run_bytes * runs, 1, 0
    items = []
    for low in range(0, run_bytes, _MOST_RUN_BYTES):
        fields = {
            "memory_address": memory + low,
            "ub_address": ub + low,
            "run_bytes": min(_MOST_RUN_BYTES, run_bytes - low),
            "count0": runs,
            "memory_stride0": pitch,
            "ub_stride0": pitch,
        }
        if window is not None:
            fields["window"] = window
        items.append(instruction(operation, **fields))
    return items


def read_weights(work: MatrixWork, step: Step, place: WeightPlace, arch: Arch) -> Instruction:
    """Loads the step's tiles."""
    return instruction(
        "read_weights",
        address=place.address
        + step.tiles[0] * place.tile_stride
        + step.reduction[0] * arch.rows * place.pitch,
        row_pitch=place.pitch,
        n_count=len(step.tiles),
        n_stride=step.tiles.step * place.tile_stride,
        outer_count=work.taps[0] * work.taps[1],
        outer_stride=work.step_bytes * place.pitch,
        inner_count=step.reduction[1] - step.reduction[0],
        inner_stride=arch.rows * place.pitch,
        k_last=_k_last(work, step, arch),
        n_last=_n_last(work, step, arch),
    )


def read_all_weights(
    tiled: TiledWork, work: MatrixWork, place: WeightPlace, arch: Arch
) -> Instruction | None:
    """One instruction that loads the tiles of all steps of a convolution, chunk after chunk.

    None if the loops cannot say it: one of the three is taken by the repetition, so the tiles of a
    chunk must be evenly spaced, or lie in one column tile; and `n_last` and `k_last` hold for the
    last turn alone, so partial tiles may only stand where every turn of their loop is the last.
    """
    chunks = len({step.chunk for step in tiled.steps})
    tiles, places = tiled.column_tiles, work.taps[0] * work.taps[1]
    whole_columns = work.out_channels == tiles * arch.columns
    whole_rows = work.step_bytes % arch.rows == 0
    repeated = {"n_count": chunks, "n_stride": 0, "n_last": arch.columns}
    if chunks == 1 or chunks > _MOST_REPEATS or work.streams:
        return None
    if whole_rows:
        loop = {"inner_stride": arch.rows * place.pitch, "k_last": arch.rows}
        per_tile = places * tiled.reduction_steps
        if whole_columns:
            fields = {**repeated, **loop, "inner_count": tiles * per_tile}
        elif tiles == 1:
            fields = {**loop, "inner_count": per_tile, "outer_count": chunks, "outer_stride": 0}
            fields["n_last"] = work.out_channels
        else:
            return None
    elif whole_columns and (tiled.reduction_steps == 1 or tiles == 1):
        fields = {
            **repeated,
            "outer_count": tiles * places,
            "outer_stride": work.step_bytes * place.pitch,
            "inner_count": tiled.reduction_steps,
            "inner_stride": arch.rows * place.pitch,
            "k_last": work.step_bytes - (tiled.reduction_steps - 1) * arch.rows,
        }
    elif tiles == places == 1:
        fields = {
            "outer_count": chunks,
            "outer_stride": 0,
            "inner_count": tiled.reduction_steps,
            "inner_stride": arch.rows * place.pitch,
            "k_last": work.step_bytes - (tiled.reduction_steps - 1) * arch.rows,
            "n_last": work.out_channels,
        }
    else:
        return None
    if max(fields.get("inner_count", 1), fields.get("outer_count", 1)) >= _MOST_STEPS:
        return None
    return instruction("read_weights", address=place.address, row_pitch=place.pitch, **fields)


def _k_last(work: MatrixWork, step: Step, arch: Arch) -> int:
    return min(arch.rows, work.step_bytes - (step.reduction[1] - 1) * arch.rows)


def _n_last(work: MatrixWork, step: Step, arch: Arch) -> int:
    return min(arch.columns, work.out_channels - step.tiles[-1] * arch.columns)


def first_line(work: MatrixWork, chunk: Chunk) -> int:
    """The first line of its plane that a chunk reads."""
    return max(chunk.product_rows[0] * work.steps[0] - work.pads[0], 0)


def last_line(work: MatrixWork, chunk: Chunk) -> int:
    """One more than the last line of its plane that a chunk reads."""
    last = (chunk.product_rows[1] - 1) * work.steps[0] - work.pads[0]
    last += (work.taps[0] - 1) * work.tap_steps[0] + 1
    return min(max(last, 0), work.lines)


def matmul(work: MatrixWork, step: Step, arch: Arch, input_address: int) -> Instruction:
    """The product of a step; `input_address` is that of the work's whole input."""
    chunk = step.chunk
    line = work.line_bytes
    y_start = chunk.product_rows[0] * work.steps[0] - work.pads[0]
    p_start = (chunk.product_columns[0] * work.steps[1] - work.pads[1]) * work.element_bytes
    p_start += step.reduction[0] * arch.rows
    base = input_address + chunk.plane * work.lines * line
    x_count = chunk.product_columns[1] - chunk.product_columns[0]
    y_count = chunk.product_rows[1] - chunk.product_rows[0]
    more_x, more_y = x_count > 1, y_count > 1
    more_k0, more_k1 = work.taps[0] > 1, work.taps[1] > 1
    return instruction(
        "matmul",
        accumulate=step.accumulate,
        pad_value=work.zp_in,
        ub_address=base + y_start * line + p_start,
        p_start=p_start,
        p_limit=line,
        y_start=y_start,
        y_limit=work.lines,
        x_count=x_count,
        y_count=y_count,
        k2_count=step.reduction[1] - step.reduction[0],
        k1_count=work.taps[1],
        k0_count=work.taps[0],
        n_count=len(step.tiles),
        x_step=work.steps[1] * work.element_bytes * more_x,
        k2_step=arch.rows,
        k1_step=work.tap_steps[1] * work.element_bytes * more_k1,
        y_step=work.steps[0] * more_y,
        k0_step=work.tap_steps[0] * more_k0,
        y_address_step=work.steps[0] * line * more_y,
        k0_address_step=work.tap_steps[0] * line * more_k0,
        k_last=_k_last(work, step, arch),
        acc_address=step.accumulator,
        acc_n_step=chunk.positions,
    )


def requantize(
    work: MatrixWork, step: Step, arch: Arch, output_address: int, parameter_address: int
) -> Instruction:
    """Requantizes (and pools) a finished step; the addresses are those of the whole work."""
    chunk, pool = step.chunk, work.pool
    width = chunk.product_columns[1] - chunk.product_columns[0]
    rows, columns = chunk.rows, chunk.columns
    channels = work.out_channels
    fields: dict[str, int] = {}
    a_address = step.accumulator
    if work.pooled:
        y_start = rows[0] * pool.strides[0] - pool.pads[0] - chunk.product_rows[0]
        x_start = columns[0] * pool.strides[1] - pool.pads[1] - chunk.product_columns[0]
        a_address += y_start * width + x_start
        fields = {
            "y_start": y_start,
            "x_start": x_start,
            "y_limit": chunk.product_rows[1] - chunk.product_rows[0],
            "x_limit": width,
            "y_step": pool.strides[0],
            "x_step": pool.strides[1],
            "ky_step": pool.dilations[0],
            "kx_step": pool.dilations[1],
            "ky_count": pool.kernel[0],
            "kx_count": pool.kernel[1],
            "a_ky_step": pool.dilations[0] * width,
            "a_kx_step": pool.dilations[1],
        }
    plane = work.out_size[0] * work.out_size[1] * channels
    first = chunk.plane * plane + (rows[0] * work.out_size[1] + columns[0]) * channels
    return instruction(
        "requantize",
        zero_point=work.zp_out,
        low=work.lo,
        high=work.hi,
        a_address=a_address % ADDRESS_SPAN,
        a_n_step=chunk.positions,
        a_y_step=pool.strides[0] * width,
        a_x_step=pool.strides[1],
        y_count=rows[1] - rows[0],
        x_count=columns[1] - columns[0],
        n_count=len(step.tiles),
        n_last=_n_last(work, step, arch),
        out_address=output_address + first + step.tiles[0] * arch.columns,
        out_n_step=arch.columns,
        out_y_step=work.out_size[1] * channels,
        out_x_step=channels,
        parameter_address=parameter_address + 8 * step.tiles[0] * arch.columns,
        **fields,
    )


def pool_plane(
    work: PoolWork, plane: int, arch: Arch, input_address: int, output_address: int
) -> Instruction:
    """The whole maximum of one plane."""
    row, pool = work.columns * work.channels, work.pool
    rows, columns = work.out_size
    groups = -(-work.channels // arch.columns)
    start = input_address + plane * work.lines * row
    return instruction(
        "copy",
        source_ub=1,
        # Where the first tap is padding this lies before the tensor; nothing is read there.
        a_address=(start - pool.pads[0] * row - pool.pads[1] * work.channels) % ADDRESS_SPAN,
        a_n_step=arch.columns,
        a_y_step=pool.strides[0] * row,
        a_x_step=pool.strides[1] * work.channels,
        a_ky_step=pool.dilations[0] * row,
        a_kx_step=pool.dilations[1] * work.channels,
        y_start=-pool.pads[0],
        x_start=-pool.pads[1],
        y_limit=work.lines,
        x_limit=work.columns,
        y_step=pool.strides[0],
        x_step=pool.strides[1],
        ky_step=pool.dilations[0],
        kx_step=pool.dilations[1],
        ky_count=pool.kernel[0],
        kx_count=pool.kernel[1],
        y_count=rows,
        x_count=columns,
        n_count=groups,
        n_last=work.channels - (groups - 1) * arch.columns,
        out_address=output_address + plane * rows * columns * work.channels,
        out_n_step=arch.columns,
        out_y_step=columns * work.channels,
        out_x_step=work.channels,
    )
