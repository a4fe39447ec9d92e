"""Products of views with a constant matrix: rows of any axes, contracted over any others."""

from dataclasses import dataclass, replace

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.operand import Loop, Operand, common_loops
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array, Int8Array

_MOST_LINES = 1 << 14
"""Rows of one nest: line numbers are signed 16-bit fields."""
_MOST_IMAGES = 256
"""Planes of one nest of images."""
_LINE_BYTES = 1 << 22
"""What a line of several positions may have, in bytes."""
_LINE_PITCH = 1 << 23
_POSITION_PITCH = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Band:
    """Column tiles of `outputs` results, of which each reads `reach` contiguous elements, `step`
    behind those of the tile before."""

    outputs: int
    step: int
    reach: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseProduct:
    """`requantize(bias + sum(x * weight))` over the last `contracted` axes of `source`.

    Attributes
    ----------
    source
        [rows ..., K ...].
    target
        [rows ..., O], with contiguous outputs.
    contracted
        Number of K axes.
    weights
        int8 [O, K], K in row-major order of these axes; with `band` [O, reach].
    reordered
        Keeps `weights` by the order in which the K axes lie, for lowering again.
    bias
        int64 [O], the zero point folded in.
    multipliers, shifts
        int32 [O].
    band
        Where a result depends on neighbours among the elements of one contracted axis. Images'
        rows then stay lines, as in nests of the vector unit.
    """

    source: View
    target: View
    contracted: int
    weights: Int8Array
    reordered: dict[tuple[int, ...], Int8Array]
    bias: Array
    multipliers: Array
    shifts: Array
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    band: Band | None = None


def multiply(builder: NestBuilder, product: DenseProduct) -> None:
    """Add the nests of a product."""
    source, weights = _contiguous(builder, product)
    split = len(source.shape) - product.contracted
    rows = replace(source, shape=source.shape[:split], strides=source.strides[:split])
    target = product.target
    results = replace(target, shape=target.shape[:-1], strides=target.strides[:-1])
    assert rows.shape == results.shape, (rows, results)
    stored, band = StoredWeights(values=weights.T), product.band
    assert band is None or product.contracted == 1, product
    width = source.shape[-1] if band else weights.shape[1]
    parameters = builder.parameters(product.bias, product.multipliers, product.shifts)
    pairs = _images(rows, results, width, weights.shape[0]) if band else []
    for source_operand, target_operand in pairs or _operands(
        rows, results, width, weights.shape[0]
    ):
        builder.add(
            MatrixNest(
                name=builder.fresh(builder.layer), layer=builder.layer,
                source_nodes=builder.sources, output=target_operand, input=source_operand,
                outputs=weights.shape[0],
                size=(target_operand.lines, target_operand.positions),
                step_bytes=weights.shape[1], weights=stored,
                tile_outputs=band.outputs if band else builder.arch.columns,
                tile_bytes=band.step if band else 0, parameters=parameters,
                zp_in=product.zp_in, zp_out=product.zp_out, lo=product.lo, hi=product.hi,
            )
        )


def _contiguous(builder: NestBuilder, product: DenseProduct) -> tuple[View, Int8Array]:
    """The source with each row's K elements side by side, in whatever order, and the weights in
    that order."""
    source, rank = product.source, len(product.source.shape)
    axes = range(rank - product.contracted, rank)
    order = sorted(axes, key=lambda axis: (source.shape[axis] != 1, -source.strides[axis]))
    inner = replace(
        source, shape=tuple(source.shape[axis] for axis in axes),
        strides=tuple(source.strides[axis] for axis in axes),
    )
    if not inner.is_packed([axis - axes.start for axis in order]):
        outer = sorted(range(axes.start), key=lambda axis: -abs(source.strides[axis]))
        order = list(axes)
        source = builder.packed(source, (*outer, *order))
    if order == list(axes):
        return source, product.weights
    key = tuple(axis - axes.start + 1 for axis in order)
    if key not in product.reordered:
        shape = tuple(product.source.shape[axis] for axis in axes)
        permuted = product.weights.reshape(-1, *shape).transpose(0, *key)
        product.reordered[key] = permuted.reshape(product.weights.shape)
    return source, product.reordered[key]


def _operands(
    rows: View, results: View, width_in: int, width_out: int
) -> list[tuple[Operand, Operand]]:
    """Pairs of operands for all rows: the longest loop as lines, the next as positions where
    these lie apart, the others as planes."""
    loops = sorted(common_loops([results, rows]), key=lambda loop: loop[0])
    loops = [(1, (0, 0)), (1, (0, 0)), *loops]
    lines = loops.pop()
    positions = loops[-1]
    if _are_positions(positions, width_in, width_out):
        loops.pop()
    else:
        positions = (1, (width_out, width_in))
    starts = [(results.offset, rows.offset)]
    for size, (step_out, step_in) in loops:
        starts = [(a + i * step_out, b + i * step_in) for a, b in starts for i in range(size)]
    pairs = []
    count, (pitch_out, pitch_in) = lines
    if max(abs(pitch_in), abs(pitch_out)) >= _LINE_PITCH:
        # Too far apart for an instruction: a plane each.
        starts = [(a + i * pitch_out, b + i * pitch_in) for a, b in starts for i in range(count)]
        count = 1
    for low in range(0, count, _MOST_LINES):
        size = min(_MOST_LINES, count - low)
        planes_out = tuple(start + low * pitch_out for start, _ in starts)
        planes_in = tuple(start + low * pitch_in for _, start in starts)
        pairs.append(
            (
                _operand(rows, planes_in, (size, pitch_in), (positions[0], positions[1][1]),
                         width_in),
                _operand(results, planes_out, (size, pitch_out), (positions[0], positions[1][0]),
                         width_out),
            )
        )
    return pairs


def _images(
    rows: View, results: View, width_in: int, width_out: int
) -> list[tuple[Operand, Operand]]:
    """The pair of operands of rows [images, lines, positions]; none where that is not what they
    are, or too far apart."""
    if len(rows.shape) != 3:
        return []
    images, lines, positions = rows.shape
    loop = (positions, (results.strides[2], rows.strides[2]))
    pitches = rows.strides[1], results.strides[1]
    if (
        not _are_positions(loop, width_in, width_out)
        or min(*pitches, results.strides[2]) <= 0
        or max(pitches) >= _LINE_PITCH
        or lines > _MOST_LINES
        or images > _MOST_IMAGES
    ):
        return []
    source, target = (
        _operand(
            view, tuple(view.offset + i * view.strides[0] for i in range(images)),
            (lines, view.strides[1]), (positions, view.strides[2]), width,
        )
        for view, width in ((rows, width_in), (results, width_out))
    )
    return [(source, target)]


def _are_positions(loop: Loop, width_in: int, width_out: int) -> bool:
    size, (step_out, step_in) = loop
    return (
        size > 1
        and width_in <= step_in
        and width_out <= abs(step_out) < _POSITION_PITCH
        and size * step_in < _LINE_BYTES
    )


def _operand(
    view: View, planes: tuple[int, ...], lines: tuple[int, int], positions: tuple[int, int],
    width: int,
) -> Operand:
    return Operand(
        buffer=view.buffer, planes=planes, lines=lines[0], line_pitch=lines[1],
        positions=positions[0], position_pitch=positions[1], width=width, byte_planes=view.planes,
    )


