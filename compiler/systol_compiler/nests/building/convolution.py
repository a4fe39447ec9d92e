"""Convolutions of views: kernel rows folded, images as lines, groups packed into tiles."""

from dataclasses import dataclass, replace

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder, natural
from systol_compiler.nests.building.packing import Channels, Packing, choose, step_bytes
from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.operand import Operand, image_operand, moved
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array, Int8Array

_MOST_LINES = 1 << 14
"""Lines that images folded into one may have: line numbers are signed 16-bit fields."""
_MOST_TAPS = 255
"""Kernel columns that an instruction loops over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """`requantize(bias + sum(x * weight))` over windows; positions outside hold `zp_in`.

    Attributes
    ----------
    source
        [N, H, W, C].
    target
        [N, rows, columns, O], with contiguous channels.
    weights
        int8 [O, C / groups, kernel rows, kernel columns].
    strides, dilations
        (vertical, horizontal).
    pads
        (top, left), negative where windows begin inside; below and to the right `target` decides.
    bias
        int64 [O], the zero point folded in.
    multipliers, shifts
        int32 [O].
    zp_in, zp_out, lo, hi
        Padding; zero point and clip of the results.
    """

    source: View
    target: View
    weights: Int8Array
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    bias: Array
    multipliers: Array
    shifts: Array
    zp_in: int
    zp_out: int
    lo: int
    hi: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Product:
    """A convolution between operands, on its way to nests."""

    source: Operand
    target: Operand
    weights: Int8Array
    groups: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    bias: Array
    multipliers: Array
    shifts: Array

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weights.shape[2], self.weights.shape[3]

    @property
    def packed(self) -> bool:
        """Whether positions of the input lie side by side."""
        return self.source.position_pitch == self.source.width


def convolve(builder: NestBuilder, convolution: Convolution) -> None:
    """Add the nests of a convolution."""
    target = image_operand(convolution.target)
    assert target is not None, f"layer {builder.layer!r}: the result's channels are strided"
    source = builder.image(convolution.source)
    if not _fits(source, convolution):
        packed = image_operand(builder.packed(convolution.source, natural(4)))
        assert packed is not None
        source = packed
    if source.positions == 1:
        source = replace(source, position_pitch=source.width)
    product = _Product(
        source=source, target=target, weights=convolution.weights, groups=convolution.groups,
        strides=convolution.strides, dilations=convolution.dilations, pads=convolution.pads,
        bias=convolution.bias, multipliers=convolution.multipliers, shifts=convolution.shifts,
    )
    product = _images_as_lines(_lines_as_positions(_trimmed(product, convolution.zp_in)))
    for piece, packing in _pieces(product, builder):
        builder.add(_nest(builder, piece, packing, convolution))


def _fits(source: Operand, convolution: Convolution) -> bool:
    """Whether positions follow each other, so that a line ends behind its last one; and whether
    the instruction's fields hold the distances between lines and positions, and its loops the
    kernel's columns where they cannot be folded."""
    steps = max(convolution.strides[0], convolution.dilations[0])
    wide = convolution.weights.shape[3] > _MOST_TAPS
    return (
        (source.positions == 1 or source.position_pitch >= source.width)
        and source.positions * source.position_pitch < 1 << 22
        and steps * abs(source.line_pitch) < 1 << 23
        and (not wide or source.position_pitch == source.width)
    )


def _trimmed(product: _Product, zp_in: int) -> _Product:
    """Without the taps that lie outside for every output, which only add to the bias, and without
    the lines and positions before the first that is read."""
    for axis in (0, 1):
        product = _trimmed_axis(product, axis, zp_in)
    return product


def _trimmed_axis(product: _Product, axis: int, zp_in: int) -> _Product:
    source, weights, pads = product.source, product.weights, list(product.pads)
    size = (source.lines, source.positions)[axis]
    results = (product.target.lines, product.target.positions)[axis]
    taps = np.arange(weights.shape[2 + axis]) * product.dilations[axis] - pads[axis]
    last = taps + (results - 1) * product.strides[axis]
    live = np.flatnonzero((last >= 0) & (taps < size))
    if not live.size:
        dead, weights, pads[axis] = weights, np.zeros_like(weights.take([0], 2 + axis)), 0
    else:
        first, end = int(live[0]), int(live[-1]) + 1
        dead = np.delete(weights, np.s_[first:end], axis=2 + axis)
        weights = weights.take(range(first, end), axis=2 + axis) if dead.size else weights
        pads[axis] -= first * product.dilations[axis]
    if dead.size:
        totals = dead.sum(axis=(1, 2, 3), dtype=np.int64)
        product = replace(product, bias=product.bias + zp_in * totals)
    if pads[axis] < 0:
        skipped, pads[axis] = -pads[axis], 0
        pitch = (source.line_pitch, source.position_pitch)[axis]
        source = replace(
            moved(source, skipped * pitch),
            lines=source.lines - (skipped if axis == 0 else 0),
            positions=source.positions - (skipped if axis == 1 else 0),
        )
    return replace(product, source=source, weights=weights, pads=(pads[0], pads[1]))


def _lines_as_positions(product: _Product) -> _Product:
    """Where the kernel is as wide as the image: lines as positions of all their bytes, so that
    the kernel's rows are contiguous too."""
    source, target = product.source, product.target
    kernel = product.kernel
    contiguous = source.positions == 1 or (
        source.position_pitch == source.width
        and source.line_pitch == source.positions * source.width
    )
    wide = source.positions * source.width
    if (
        kernel[1] != source.positions
        or product.pads[1] != 0
        or target.positions != 1
        or (kernel[1] > 1 and product.dilations[1] != 1)
        or (product.groups > 1 and source.positions > 1)
        or not contiguous
        or (source.lines > 1 and source.line_pitch < wide)
        or kernel[0] == source.lines == 1
    ):
        return product
    outputs, inputs = product.weights.shape[:2]
    weights = product.weights.transpose(0, 3, 1, 2).reshape(outputs, kernel[1] * inputs, 1, -1)
    return replace(
        product,
        source=replace(
            source, lines=1, positions=source.lines, width=wide, line_pitch=0,
            position_pitch=source.line_pitch if source.lines > 1 else wide,
        ),
        target=replace(
            target, lines=1, positions=target.lines, line_pitch=0,
            position_pitch=target.line_pitch,
        ),
        weights=weights,
        strides=(1, product.strides[0]),
        dilations=(1, product.dilations[0]),
        pads=(0, product.pads[0]),
    )


def _images_as_lines(product: _Product) -> _Product:
    """Where no window crosses from image to image: all images as lines of one."""
    source, target = product.source, product.target
    images = len(source.planes)
    step_in, step_out = source.plane_step, target.plane_step
    if (
        images == 1
        or product.kernel[0] != 1
        or product.pads[0] != 0
        or step_in is None
        or step_out is None
        or images * source.lines >= _MOST_LINES
    ):
        return product
    stride = product.strides[0]
    if target.lines == 1:
        # One line of each image: they may lie any distance apart.
        lines, pitch_in, pitch_out, stride = 1, step_in, step_out, 1
    elif (
        source.lines == target.lines * stride
        and step_in == source.lines * source.line_pitch
        and step_out == target.lines * target.line_pitch
    ):
        lines, pitch_in, pitch_out = source.lines, source.line_pitch, target.line_pitch
    else:
        return product
    if min(step_in, step_out) <= 0:
        return product
    return replace(
        product,
        source=replace(
            source, planes=source.planes[:1], lines=images * lines, line_pitch=pitch_in
        ),
        target=replace(
            target, planes=target.planes[:1], lines=images * target.lines, line_pitch=pitch_out
        ),
        strides=(stride, product.strides[1]),
    )


def _pieces(product: _Product, builder: NestBuilder) -> list[tuple[_Product, Packing]]:
    """The product as parts that are nests, each with its packing."""
    groups = product.groups
    outputs = product.weights.shape[0]
    channels = Channels(
        groups=groups, per_group=product.weights.shape[1], per_output=outputs // groups,
        kernel=product.kernel, dilation=product.dilations[1],
        positions=len(product.target.planes) * product.target.lines * product.target.positions,
        packed=product.packed,
    )
    packing = choose(channels, builder.arch)
    if packing.groups == groups:
        return [(product, packing)]
    if packing.separate:
        dense = Packing(groups=1, taps=1)
        return [(_part(product, group, 1, narrow=True), dense) for group in range(groups)]
    rest = groups % packing.groups
    if not rest:
        return [(product, packing)]
    # The last tile has fewer groups: a product of its own, so that it reads no further than it
    # needs. Steps over several positions read all channels.
    main = _part(product, 0, groups - rest, narrow=packing.taps == 1)
    last = _part(product, groups - rest, rest, narrow=True)
    return [(main, packing), *_pieces(last, builder)]


def _part(product: _Product, first: int, groups: int, *, narrow: bool) -> _Product:
    """Groups `first .. first + groups - 1`; `narrow`: with an input of their channels alone."""
    outputs, inputs = product.weights.shape[0] // product.groups, product.weights.shape[1]
    chosen = slice(first * outputs, (first + groups) * outputs)
    source = product.source
    if narrow:
        source = replace(
            source, width=groups * inputs,
            planes=tuple(start + first * inputs for start in source.planes),
        )
    return replace(
        product,
        source=source,
        target=replace(
            product.target, width=groups * outputs,
            planes=tuple(start + first * outputs for start in product.target.planes),
        ),
        weights=product.weights[chosen], groups=groups, bias=product.bias[chosen],
        multipliers=product.multipliers[chosen], shifts=product.shifts[chosen],
    )


def _nest(
    builder: NestBuilder, product: _Product, packing: Packing, numbers: Convolution
) -> MatrixNest:
    source, kernel = product.source, product.kernel
    outputs, per_group = product.weights.shape[:2]
    per_output = outputs // product.groups
    dense = packing.groups == product.groups
    step = step_bytes(
        Channels(
            groups=source.width // per_group, per_group=per_group, per_output=per_output,
            kernel=kernel, dilation=product.dilations[1], positions=1, packed=product.packed,
        ),
        packing,
    )
    turns = -(-kernel[1] // packing.taps)
    if dense and turns == 1 and product.target.positions == 1 and product.pads[1] == 0:
        # All that is read of a line is one position.
        source = replace(source, positions=1, width=step, position_pitch=step)
    return MatrixNest(
        name=builder.fresh(builder.layer), layer=builder.layer, source_nodes=builder.sources,
        output=product.target, input=source, outputs=outputs,
        size=(product.target.lines, product.target.positions),
        steps=product.strides,
        taps=(kernel[0], turns),
        tap_steps=(product.dilations[0], product.dilations[1] * packing.taps),
        pads=product.pads,
        step_bytes=step,
        weights=StoredWeights(values=_stored(product, packing, step)),
        tile_outputs=builder.arch.columns if dense else packing.groups * per_output,
        tile_bytes=0 if dense else packing.groups * per_group,
        parameters=builder.parameters(product.bias, product.multipliers, product.shifts),
        zp_in=numbers.zp_in, zp_out=numbers.zp_out, lo=numbers.lo, hi=numbers.hi,
    )


def _stored(product: _Product, packing: Packing, step: int) -> Int8Array:
    """Weights as [kernel rows * turns * step bytes, outputs]."""
    weights, width = product.weights, product.source.width
    outputs, per_group, rows, columns = weights.shape
    per_output = outputs // product.groups
    folded = product.dilations[1] == 1 and packing.taps == columns
    if product.groups == 1 and (folded or packing.taps == 1):
        # Of kernels of one tap this is only a view.
        return weights.transpose(0, 2, 3, 1).reshape(outputs, -1).T
    turns = -(-columns // packing.taps)
    stored = np.zeros((rows, turns, step, outputs), np.int8)
    lanes = np.arange(outputs) // per_output % packing.groups
    for lane in range(min(packing.groups, product.groups)):
        chosen = np.flatnonzero(lanes == lane)
        for column in range(columns):
            turn, tap = divmod(column, packing.taps)
            low = tap * product.dilations[1] * width + lane * per_group
            part = stored[:, turn, low : low + per_group]
            part[:, :, chosen] = weights[chosen][:, :, :, column].transpose(2, 1, 0)
    return stored.reshape(-1, outputs)
