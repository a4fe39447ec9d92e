"""Matrix nests: products with their requantization, for convolutions and matrix products alike.

The input is *lines* of positions of contiguous bytes. The reduction runs over `taps[0]` lines,
`taps[1]` positions of a line and `step_bytes` contiguous bytes, which may reach over several
positions (kernel-row folding). Outputs lie at `size` positions of each plane, in column tiles.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.nest import Nest, Require
from systol_compiler.nests.operand import Box, Operand
from systol_compiler.nests.window import WHOLE, Window2D


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeights:
    """Constant weights: int8 [taps[0] * taps[1] * step_bytes, outputs]."""

    values: npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationWeights:
    """Weights that lie in the unified buffer, with zero point 0.

    `operand` has one plane for each plane of the nest (or one for all). Its lines are the rows of
    the matrix [reduction, outputs], its positions are 1 and its width the outputs; with
    `transpose` its lines are the outputs and its width the reduction.
    """

    operand: Operand
    transpose: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixNest(Nest):
    """A product with its requantization, for each plane.

    Attributes
    ----------
    input
        Lines (image rows, or rows of a matrix) of positions of bytes. As many planes as `output`.
    outputs
        Channels of the product.
    size
        (rows, columns) of product positions of a plane, before pooling.
    steps
        (lines, positions) from product position to product position.
    taps, tap_steps
        (k0 in lines, k1 in positions) and their steps.
    pads
        (top in lines, left in positions), where the activation is `zp_in`.
    step_bytes
        Contiguous bytes of the reduction at one (k0, k1).
    weights
        Constant, or in the unified buffer.
    tile_outputs, tile_bytes
        Outputs of a column tile, and bytes by which the input moves from column tile to column
        tile: 0 for dense products, the bytes of a group's channels for grouped ones.
    parameters
        Constant buffer of 8 bytes for each output: bias, multiplier, shift.
    zp_in, zp_out, lo, hi
        Padding activation; zero point and clip of the results.
    pool
        Maximum over windows of the accumulators, before requantization.
    """

    kind: ClassVar[str] = "matrix"

    input: Operand
    outputs: int
    size: tuple[int, int]
    steps: tuple[int, int] = (1, 1)
    taps: tuple[int, int] = (1, 1)
    tap_steps: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    step_bytes: int
    weights: StoredWeights | ActivationWeights
    tile_outputs: int
    tile_bytes: int = 0
    parameters: str
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    pool: Window2D = WHOLE

    @property
    def reads(self) -> tuple[Operand, ...]:
        if isinstance(self.weights, ActivationWeights):
            return (self.input, self.weights.operand)
        return (self.input,)

    @property
    def constants(self) -> tuple[str, ...]:
        return (self.parameters,)

    @property
    def planes(self) -> int:
        """Turns of the whole nest."""
        return len(self.output.planes)

    @property
    def pooled(self) -> bool:
        """Whether a maximum is fused."""
        return self.pool != WHOLE

    @property
    def passes(self) -> tuple[int, ...]:
        """Accumulate shifts of the turns through the reduction: one for each byte plane of the
        activations (and of the weights), the high ones first."""
        wide_weights = (
            isinstance(self.weights, ActivationWeights)
            and self.weights.operand.byte_planes == 2
        )
        if self.input.byte_planes == 1:
            return (1, 0) if wide_weights else (0,)
        return (2, 1, 1, 0) if wide_weights else (1, 0)

    @property
    def streams(self) -> bool:
        """Whether the reduction can be cut into instructions of any number of steps: one reduction
        loop over one column of positions, as in a linear layer."""
        return (
            self.taps == (1, 1)
            and self.size[1] == 1
            and self.planes == 1
            and self.pads == (0, 0)
            and self.tile_bytes == 0
            and not self.pooled
            and len(self.passes) == 1
            and isinstance(self.weights, StoredWeights)
        )

    @property
    def folded(self) -> int:
        """Positions that a step reaches over: more than 1 where kernel rows are folded."""
        return -(-self.step_bytes // max(self.input.width, 1)) if self.tile_bytes == 0 else 1

    def unfolded(self) -> "MatrixNest":
        """The same product with a step for each position: its channels can then be cut."""
        assert self.taps[1] == 1 and self.step_bytes == self.folded * self.input.width
        return replace(
            self, taps=(self.taps[0], self.folded), tap_steps=(self.tap_steps[0], 1),
            step_bytes=self.input.width,
        )

    @property
    def macs(self) -> int:
        rows, columns = self.size
        reduction = self.taps[0] * self.taps[1] * self.step_bytes
        return self.planes * rows * columns * reduction * self.outputs

    def product_rows(self, box: Box) -> tuple[int, int]:
        """Rows of product positions that the outputs of `box` need."""
        return self.pool.span(0, *box.lines, self.size[0])

    def product_columns(self, box: Box) -> tuple[int, int]:
        """Columns of product positions that the outputs of `box` need."""
        return self.pool.span(1, *box.positions, self.size[1])

    def needs(self, box: Box) -> tuple[Box, ...]:
        source = self.input
        spans = []
        for axis, (first, end), size in (
            (0, self.product_rows(box), source.lines),
            (1, self.product_columns(box), source.positions),
        ):
            low = first * self.steps[axis] - self.pads[axis]
            high = (end - 1) * self.steps[axis] - self.pads[axis]
            high += (self.taps[axis] - 1) * self.tap_steps[axis] + 1
            if axis == 1:
                # A step may reach over the positions behind its first.
                high += -(-self.step_bytes // max(source.width, 1)) - 1
            low = min(max(low, 0), size - 1)
            spans.append((low, max(min(high, size), low + 1)))
        tiles = (box.bytes[0] // self.tile_outputs, -(-box.bytes[1] // self.tile_outputs))
        width = (0, source.width)
        if self.tile_bytes >= self.step_bytes:
            low = tiles[0] * self.tile_bytes
            width = (low, min(low + (tiles[1] - tiles[0]) * self.tile_bytes, source.width))
        needed = [Box(planes=box.planes, lines=spans[0], positions=spans[1], bytes=width)]
        if isinstance(self.weights, ActivationWeights):
            operand = self.weights.operand
            planes = box.planes if len(operand.planes) > 1 else (0, 1)
            columns = (tiles[0] * self.tile_outputs,
                       min(tiles[1] * self.tile_outputs, self.outputs))
            lines, across = (0, operand.lines), columns
            if self.weights.transpose:
                lines, across = columns, (0, operand.width)
            needed.append(Box(planes=planes, lines=lines, positions=(0, 1), bytes=across))
        return tuple(needed)

    def verify(self) -> None:
        require, line = Require(self.layer), self.input.line_pitch
        for axis, what in enumerate(("height", "width")):
            require.below(self.taps[axis], 256, f"the kernel's {what}")
            require.below(self.pool.kernel[axis], 256, f"the pooling kernel's {what}")
        require.below(self.steps[0], 256, "the vertical stride")
        require.below(self.tap_steps[0], 256, "the vertical dilation")
        require.below(self.steps[0] * line, 1 << 23, "bytes between output rows")
        require.below(self.tap_steps[0] * line, 1 << 23, "bytes between kernel rows")
        require.below(self.input.positions * self.input.position_pitch, 1 << 22,
                      "an input row's bytes (width x channels)")
        require.below(self.pads[1] * self.input.position_pitch, 1 << 22, "the left padding's bytes")
        for axis in (0, 1):
            require.below(self.pool.strides[axis], 64, "a pooling stride")
            require.below(self.pool.dilations[axis], 16, "a pooling dilation")
            require.below(self.pool.pads[axis], 128, "a pooling pad")
