"""Fields of the instructions of one task: pure address arithmetic from shapes."""

from collections.abc import Iterator
from dataclasses import dataclass

from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.operand import Box, Operand
from systol_compiler.nests.vector import (
    Binary,
    Copy,
    Fill,
    Requantize,
    Table,
    VectorNest,
)
from systol_compiler.nests.window import WHOLE
from systol_compiler.plan.tiling import (
    Step,
    Tile,
    column_tiles,
    product_positions,
    reduction_steps,
)
from systol_compiler.program.weight_image import WeightPlace
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_sim.validity.footprint import ADDRESS_SPAN

_MOST_RUN_BYTES = 1 << 20
_MOST_REPEATS = 4095
_MOST_STEPS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An operand's plane in the unified buffer: byte b of position x of line y lies at
    `base + y * line_pitch + x * position_pitch + b`, its high byte `high` further.

    `base` may lie outside: it is where byte 0 of position 0 of line 0 would be.
    """

    base: int
    line_pitch: int
    position_pitch: int
    high: int = 0
    skipped: int = 0
    """Bytes of each position, from its first, that are not there: a slot may hold a part."""

    def at(self, line: int, position: int, byte: int = 0) -> int:
        """An address, modulo the address space."""
        address = self.base + line * self.line_pitch + position * self.position_pitch + byte
        return address % ADDRESS_SPAN


def transfer(
    operation: str, *, memory: int, ub: int, sizes: tuple[int, int, int],
    memory_pitches: tuple[int, int], ub_pitches: tuple[int, int], window: int | None = None,
) -> list[Instruction]:
    """Copies `sizes` = (outer, inner, run bytes) with pitches (outer, inner) on each side.

    Runs that lie back to back on both sides become one; a long one is cut into as many
    instructions as it needs.
    """
    outer, inner, run = sizes
    (m1, m0), (u1, u0) = memory_pitches, ub_pitches
    if inner == 1 or (m0 == run and u0 == run):
        run, inner, m0, u0 = run * inner, outer, m1, u1
        outer, m1, u1 = 1, 0, 0
        if inner == 1 or (m0 == run and u0 == run):
            run, inner, m0, u0 = run * inner, 1, 0, 0
    items = []
    for low in range(0, run, _MOST_RUN_BYTES):
        for first in range(0, inner, _MOST_STEPS - 1):
            fields = {
                "memory_address": memory + low + first * m0,
                "ub_address": ub + low + first * u0,
                "run_bytes": min(_MOST_RUN_BYTES, run - low),
                "count0": min(_MOST_STEPS - 1, inner - first),
                "count1": outer,
                "memory_stride0": m0 if inner > 1 else 0,
                "memory_stride1": m1 if outer > 1 else 0,
                "ub_stride0": u0 if inner > 1 else 0,
                "ub_stride1": u1 if outer > 1 else 0,
            }
            if window is not None:
                fields["window"] = window
            items.append(instruction(operation, **fields))
    return items


def read_weights(nest: MatrixNest, step: Step, place: WeightPlace, arch: Arch) -> Instruction:
    """Loads the step's tiles from weight memory."""
    return instruction(
        "read_weights",
        address=place.address
        + step.tiles[0] * place.tile_stride
        + step.reduction[0] * arch.rows * place.pitch,
        row_pitch=place.pitch,
        n_count=len(step.tiles),
        n_stride=step.tiles.step * place.tile_stride,
        outer_count=nest.taps[0] * nest.taps[1],
        outer_stride=nest.step_bytes * place.pitch,
        inner_count=step.reduction[1] - step.reduction[0],
        inner_stride=arch.rows * place.pitch,
        k_last=_k_last(nest, step, arch),
        n_last=_n_last(nest, step),
    )


def read_weights_ub(
    nest: MatrixNest, step: Step, placed: Placed, arch: Arch
) -> Instruction:
    """Loads the step's tiles from the unified buffer; `placed` is the weights' operand."""
    weights = nest.weights
    assert isinstance(weights, ActivationWeights)
    columns, rows = nest.tile_outputs, arch.rows
    shift = nest.passes[step.turn]
    wide = weights.operand.byte_planes == 2
    high = placed.high if wide and _weights_high(nest, step.turn, shift) else 0
    first_n, first_k = step.tiles[0] * columns, step.reduction[0] * rows
    if weights.transpose:
        address = placed.at(first_n, 0, first_k) + high
        n_stride, inner_stride = columns * placed.line_pitch, rows
    else:
        address = placed.at(first_k, 0, first_n) + high
        n_stride, inner_stride = columns, rows * placed.line_pitch
    return instruction(
        "read_weights_ub",
        transpose=int(weights.transpose),
        address=address,
        row_pitch=placed.line_pitch,
        n_count=len(step.tiles),
        n_stride=step.tiles.step * n_stride,
        inner_count=step.reduction[1] - step.reduction[0],
        inner_stride=inner_stride,
        k_last=_k_last(nest, step, arch),
        n_last=_n_last(nest, step),
    )


def _weights_high(nest: MatrixNest, turn: int, shift: int) -> bool:
    """Whether a turn takes the weights' high bytes: of two wide operands the turns are high x
    high, high x low, low x high, low x low (activations first)."""
    if nest.input.byte_planes == 1:
        return shift == 1
    return turn in (0, 2)


def _input_high(nest: MatrixNest, turn: int) -> bool:
    wide_weights = len(nest.passes) == 4
    return nest.input.byte_planes == 2 and (turn < 2 if wide_weights else turn == 0)


def read_all_weights(
    nest: MatrixNest, tiles: tuple[Tile, ...], place: WeightPlace, arch: Arch
) -> Instruction | None:
    """One instruction that loads the weights of all tiles of a convolution, unit after unit.

    None if the loops cannot say it: one of the three is taken by the repetition, so the tiles of a
    unit must be evenly spaced, or lie in one column tile; and `n_last` and `k_last` hold for the
    last turn alone, so partial tiles may only stand where every turn of their loop is the last.
    """
    units = len({tile.unit for tile in tiles})
    count, places = column_tiles(nest), nest.taps[0] * nest.taps[1]
    steps = reduction_steps(nest, arch)
    whole_columns = nest.outputs == count * arch.columns and nest.tile_outputs == arch.columns
    whole_rows = nest.step_bytes % arch.rows == 0
    if units == 1 or units > _MOST_REPEATS or nest.streams or len(nest.passes) > 1:
        return None
    if any(tile.reduction is not None for tile in tiles) or len(tiles) != units:
        return None
    last_k = nest.step_bytes - (steps - 1) * arch.rows
    repeated = {"n_count": units, "n_stride": 0, "n_last": arch.columns}
    if whole_rows:
        loop = {"inner_stride": arch.rows * place.pitch, "k_last": arch.rows}
        per_tile = places * steps
        if whole_columns:
            fields = {**repeated, **loop, "inner_count": count * per_tile}
        elif count == 1:
            fields = {**loop, "inner_count": per_tile, "outer_count": units, "outer_stride": 0}
            fields["n_last"] = nest.outputs
        else:
            return None
    elif whole_columns and (steps == 1 or count == 1):
        fields = {
            **repeated,
            "outer_count": count * places,
            "outer_stride": nest.step_bytes * place.pitch,
            "inner_count": steps,
            "inner_stride": arch.rows * place.pitch,
            "k_last": last_k,
        }
    elif count == places == 1:
        fields = {
            "outer_count": units,
            "outer_stride": 0,
            "inner_count": steps,
            "inner_stride": arch.rows * place.pitch,
            "k_last": last_k,
            "n_last": nest.outputs,
        }
    else:
        return None
    if max(fields.get("inner_count", 1), fields.get("outer_count", 1)) >= _MOST_STEPS:
        return None
    return instruction("read_weights", address=place.address, row_pitch=place.pitch, **fields)


def _k_last(nest: MatrixNest, step: Step, arch: Arch) -> int:
    return min(arch.rows, nest.step_bytes - (step.reduction[1] - 1) * arch.rows)


def _n_last(nest: MatrixNest, step: Step) -> int:
    return min(nest.tile_outputs, nest.outputs - step.tiles[-1] * nest.tile_outputs)


def matmul(
    nest: MatrixNest, tile: Tile, step: Step, arch: Arch, source: Placed, n_step: int
) -> Instruction:
    """The product of a step; `source` is the input's plane, `n_step` the bytes by which it moves
    from column tile to column tile."""
    rows, columns = nest.product_rows(tile.box), nest.product_columns(tile.box)
    line, pitch = source.line_pitch, source.position_pitch
    y_start = rows[0] * nest.steps[0] - nest.pads[0]
    p_start = (columns[0] * nest.steps[1] - nest.pads[1]) * pitch
    p_start += step.reduction[0] * arch.rows + step.tiles[0] * n_step
    x_count, y_count = columns[1] - columns[0], rows[1] - rows[0]
    more_x, more_y = x_count > 1, y_count > 1
    more_k0, more_k1 = nest.taps[0] > 1, nest.taps[1] > 1
    address = source.base + y_start * line + p_start
    p_start -= source.skipped
    if _input_high(nest, step.turn):
        address += source.high
    limit = (nest.input.positions - 1) * pitch + max(nest.input.width, pitch)
    if nest.input.positions == 1:
        limit = nest.input.width
    return instruction(
        "matmul",
        accumulate=step.accumulate,
        accumulate_shift=nest.passes[step.turn],
        pad_value=nest.zp_in if nest.input.byte_planes == 1 else 0,
        ub_address=_signed(address),
        p_start=p_start,
        p_limit=limit,
        y_start=y_start,
        y_limit=nest.input.lines,
        x_count=x_count,
        y_count=y_count,
        k2_count=step.reduction[1] - step.reduction[0],
        k1_count=nest.taps[1],
        k0_count=nest.taps[0],
        n_count=len(step.tiles),
        x_step=nest.steps[1] * pitch * more_x,
        k2_step=arch.rows,
        k1_step=nest.tap_steps[1] * pitch * more_k1,
        n_step=n_step * step.tiles.step * (len(step.tiles) > 1),
        y_step=nest.steps[0] * more_y,
        k0_step=nest.tap_steps[0] * more_k0,
        y_address_step=nest.steps[0] * line * more_y,
        k0_address_step=nest.tap_steps[0] * line * more_k0,
        k_last=_k_last(nest, step, arch),
        acc_address=step.accumulator,
        acc_n_step=product_positions(nest, tile.box),
    )


def _signed(address: int) -> int:
    address %= ADDRESS_SPAN
    return address - ADDRESS_SPAN if address >= ADDRESS_SPAN // 2 else address


def requantize(
    nest: MatrixNest, tile: Tile, step: Step, arch: Arch, target: Placed, parameters: int
) -> Iterator[Instruction]:
    """Requantizes (and pools) a finished step; `parameters` is the address of channel 0's.

    One instruction where column tiles fill the array's columns, else one a tile.
    """
    if nest.tile_outputs == arch.columns or len(step.tiles) == 1:
        yield _requantize(nest, tile, step, arch, target, parameters, 0, len(step.tiles))
        return
    for index in range(len(step.tiles)):
        yield _requantize(nest, tile, step, arch, target, parameters, index, 1)


def _requantize(
    nest: MatrixNest, tile: Tile, step: Step, arch: Arch, target: Placed, parameters: int,
    first: int, count: int,
) -> Instruction:
    pool, box = nest.pool, tile.box
    product_rows, product_columns = nest.product_rows(box), nest.product_columns(box)
    positions = product_positions(nest, box)
    width = product_columns[1] - product_columns[0]
    rows, columns = box.lines, box.positions
    fields: dict[str, int] = {}
    a_address = step.accumulator + first * positions
    if nest.pooled:
        y_start = rows[0] * pool.strides[0] - pool.pads[0] - product_rows[0]
        x_start = columns[0] * pool.strides[1] - pool.pads[1] - product_columns[0]
        a_address += y_start * width + x_start
        fields = {
            "y_start": y_start,
            "x_start": x_start,
            "y_limit": product_rows[1] - product_rows[0],
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
    channel = step.tiles[first] * nest.tile_outputs
    last = step.tiles[first + count - 1]
    wide = nest.output.byte_planes == 2
    return instruction(
        "requantize",
        width=int(wide),
        zero_point=nest.zp_out,
        low=nest.lo,
        high=nest.hi,
        a_address=a_address % ADDRESS_SPAN,
        a_n_step=positions,
        a_y_step=pool.strides[0] * width,
        a_x_step=pool.strides[1],
        y_count=rows[1] - rows[0],
        x_count=columns[1] - columns[0],
        n_count=count,
        n_last=min(nest.tile_outputs, nest.outputs - last * nest.tile_outputs),
        out_address=target.at(rows[0], columns[0], channel),
        out_n_step=nest.tile_outputs,
        out_y_step=_within(target.line_pitch, 23),
        out_x_step=_within(target.position_pitch, 19),
        out_plane_step=target.high // PLANE_UNIT_BYTES if wide else 0,
        parameter_address=(parameters + PARAMETER_BYTES * channel) % ADDRESS_SPAN,
        **fields,
    )


def _within(step: int, bits: int) -> int:
    """A step that is used: those of loops with one turn may be of any size, and count as 0."""
    return step if -(1 << bits) <= step < 1 << bits else 0


def vector(
    nest: VectorNest, box: Box, arch: Arch, target: Placed, sources: tuple[Placed, ...],
    constant: int,
) -> Instruction:
    """The operation over `box`; `constant` is the address of its parameters or table."""
    rows, columns = box.lines, box.positions
    width = box.bytes[1] - box.bytes[0]
    groups = -(-width // arch.columns)
    wide = nest.output.byte_planes == 2
    y_count, x_count = rows[1] - rows[0], columns[1] - columns[0]
    fields: dict[str, int] = {
        "width": int(wide),
        "zero_point": nest.zero_point,
        "low": nest.lo,
        "high": nest.hi,
        "y_count": y_count,
        "x_count": x_count,
        "n_count": groups,
        "n_last": width - (groups - 1) * arch.columns,
        "out_address": target.at(rows[0], columns[0], box.bytes[0]),
        "out_n_step": arch.columns,
        "out_y_step": target.line_pitch if y_count > 1 else 0,
        "out_x_step": target.position_pitch if x_count > 1 else 0,
        "out_plane_step": target.high // PLANE_UNIT_BYTES if wide else 0,
    }
    operation = nest.operation
    if nest.a is not None:
        fields |= _operand_a(nest, nest.a, box, sources[0], arch)
    if isinstance(operation, Fill):
        return instruction("fill", **fields)
    if isinstance(operation, Copy):
        return instruction("copy", source_ub=1, reduce=int(operation.reduce), **fields)
    if isinstance(operation, Requantize):
        channel = box.bytes[0] if operation.per_channel else 0
        return instruction(
            "requantize", source_ub=1, reduce=int(operation.reduce),
            parameter_address=(constant + PARAMETER_BYTES * channel) % ADDRESS_SPAN,
            parameter_count=operation.count, **fields,
        )
    if isinstance(operation, Table):
        return instruction(
            "table", table_width=int(operation.wide), shift=operation.shift,
            table_address=constant, **fields,
        )
    assert isinstance(operation, Binary) and nest.b is not None
    b = sources[1]
    return instruction(
        "binary",
        function=int(operation.function),
        b_width=nest.b.byte_planes - 1,
        a_zero_point=operation.a_zero_point,
        b_zero_point=operation.b_zero_point,
        a_multiplier=operation.a_multiplier,
        b_multiplier=operation.b_multiplier,
        shift=operation.shift,
        b_address=b.at(rows[0], columns[0], box.bytes[0]),
        b_n_step=arch.columns,
        b_y_step=b.line_pitch if y_count > 1 else 0,
        b_x_step=b.position_pitch if x_count > 1 else 0,
        b_plane_step=b.high // PLANE_UNIT_BYTES if nest.b.byte_planes == 2 else 0,
        **fields,
    )


def _operand_a(
    nest: VectorNest, operand: Operand, box: Box, source: Placed, arch: Arch
) -> dict[str, int]:
    window = nest.window
    first = [
        low * window.strides[axis] - window.pads[axis]
        for axis, low in enumerate((box.lines[0], box.positions[0]))
    ]
    y_count, x_count = (high - low for low, high in (box.lines, box.positions))
    fields = {
        "a_width": operand.byte_planes - 1,
        "a_address": source.at(first[0], first[1], box.bytes[0]),
        "a_n_step": arch.columns,
        "a_y_step": window.strides[0] * source.line_pitch if y_count > 1 else 0,
        "a_x_step": window.strides[1] * source.position_pitch if x_count > 1 else 0,
        "a_plane_step": source.high // PLANE_UNIT_BYTES if operand.byte_planes == 2 else 0,
    }
    if window == WHOLE:
        return fields
    # Window coordinates count from the first line and column inside: starts are small.
    origin = [max(value, 0) for value in first]
    return fields | {
        "a_ky_step": window.dilations[0] * source.line_pitch if window.kernel[0] > 1 else 0,
        "a_kx_step": window.dilations[1] * source.position_pitch if window.kernel[1] > 1 else 0,
        "y_start": first[0] - origin[0],
        "x_start": first[1] - origin[1],
        "y_limit": max(operand.lines - origin[0], 0),
        "x_limit": max(operand.positions - origin[1], 0),
        "y_step": window.strides[0],
        "x_step": window.strides[1],
        "ky_step": window.dilations[0],
        "kx_step": window.dilations[1],
        "ky_count": window.kernel[0],
        "kx_count": window.kernel[1],
    }
