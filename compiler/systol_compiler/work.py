"""The lowered network: layers as matrix work and pooling work over tensors in memory order.

One level below the quantized graph. Batches are cut into groups of images, and all shapes here are
those of one group. A `MatrixWork` is a convolution or a linear layer in the form that the matrix
unit runs: *lines* of contiguous bytes, a reduction over `k0` lines, `k1` places in a line and
`step_bytes` contiguous bytes; a `PoolWork` is a maximum over windows of the unified buffer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systol_compiler.old_quantized import Int8Array, Int32Array, UInt8Array, window_output_size
from systol_hw.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A tensor of one group of images: `images` times `image_bytes`, packed, in NHWC order."""

    name: str
    images: int
    image_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.images * self.image_bytes


@dataclass(frozen=True, kw_only=True)
class Window2D:
    """Maximum over windows: sizes and steps are (vertical, horizontal), in elements."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    """(top, left); below and to the right the output's size decides."""

    def span(self, axis: int, first: int, last: int, size: int) -> tuple[int, int]:
        """Input coordinates that outputs `first .. last - 1` read, clipped to 0 .. size."""
        low = first * self.strides[axis] - self.pads[axis]
        high = (last - 1) * self.strides[axis] - self.pads[axis]
        high += self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return max(low, 0), min(high, size)


WHOLE = Window2D(kernel=(1, 1), strides=(1, 1), dilations=(1, 1), pads=(0, 0))
"""The window of a layer without fused pooling."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixWork:
    """A product with its requantization, for each of `planes` independent planes.

    Attributes
    ----------
    name, layers, source_nodes
        The layer's name; names of the quantized layers inside (two if a pool is fused); the model's
        nodes.
    input, output
        Names of the buffers.
    planes
        Turns of the whole work: images, or 1 where images fold into lines.
    lines, line_bytes, element_bytes
        A plane of the input: lines (image rows, or images of a linear layer) of contiguous bytes;
        bytes of one position in a line (C).
    size
        (rows, columns) of product positions of a plane, before pooling.
    steps
        (vertical in lines, horizontal in positions) from position to position.
    taps, tap_steps
        (k0 in lines, k1 in positions) and their steps.
    pads
        (top in lines, left in positions).
    weights
        int8 [k0, k1, step_bytes, O].
    pool, out_size
        Fused maximum and (rows, columns) after it.
    streams
        True if the reduction can be cut into instructions of any number of steps: one reduction
        loop over one column of positions, as in a linear layer.
    """

    name: str
    layers: tuple[str, ...]
    source_nodes: tuple[str, ...]
    input: str
    output: str
    planes: int
    lines: int
    line_bytes: int
    element_bytes: int
    size: tuple[int, int]
    steps: tuple[int, int]
    taps: tuple[int, int]
    tap_steps: tuple[int, int]
    pads: tuple[int, int]
    weights: Int8Array
    bias: Int32Array
    multipliers: Int32Array
    shifts: UInt8Array
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    pool: Window2D
    out_size: tuple[int, int]

    @property
    def out_channels(self) -> int:
        return int(self.weights.shape[3])

    @property
    def step_bytes(self) -> int:
        """Contiguous bytes of the reduction at one (k0, k1)."""
        return int(self.weights.shape[2])

    @property
    def streams(self) -> bool:
        return (
            self.taps == (1, 1)
            and self.size[1] == 1
            and self.planes == 1
            and self.pads == (0, 0)
            and not self.pooled
        )

    @property
    def pooled(self) -> bool:
        return self.pool is not WHOLE

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of one group, padding taps included."""
        rows, columns = self.size
        return self.planes * rows * columns * int(self.weights.size)

    def parameters(self) -> npt.NDArray[np.uint8]:
        """Requantization parameters as the vector unit reads them: uint8 [8 * O]."""
        packed = np.zeros((self.out_channels, 8), np.uint8)
        packed[:, :4] = self.bias.astype("<i4").view(np.uint8).reshape(-1, 4)
        packed[:, 4:7] = self.multipliers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
        packed[:, 7] = self.shifts
        return packed.reshape(-1)

    def verify(self) -> None:
        """Check what the instruction fields can hold.

        Raises
        ------
        UnsupportedModelError
            Names the layer, the rule and the value.
        """
        require = _Require(self.name)
        for axis, what in enumerate(("height", "width")):
            require.below(self.taps[axis], 256, f"the kernel's {what}")
            require.below(self.pool.kernel[axis], 256, f"the pooling kernel's {what}")
        require.below(self.steps[0], 256, "the vertical stride")
        require.below(self.tap_steps[0], 256, "the vertical dilation")
        require.below(self.line_bytes, 1 << 22, "an input row's bytes (width x channels)")
        require.below(self.pads[1] * self.element_bytes, 1 << 22, "the left padding's bytes")
        require.below(self.lines, 1 << 15, "the number of input rows")
        require.below(max(self.size), 1 << 15, "the output's height and width")
        for axis in (0, 1):
            reach = self.steps[axis] * self.size[axis] + self.taps[axis] * self.tap_steps[axis]
            require.below(reach, 1 << 15, "the padded input's height and width")
        for axis in (0, 1):
            require.below(self.pool.strides[axis], 64, "a pooling stride")
            require.below(self.pool.dilations[axis], 16, "a pooling dilation")
            require.below(self.pool.pads[axis], 128, "a pooling pad")
        require.below(self.out_size[1] * self.out_channels, 1 << 22, "an output row's bytes")

    def __str__(self) -> str:
        pool = ""
        if self.pooled:
            pool = (
                f" maxpool {_x(self.pool.kernel)} by {_x(self.pool.strides)} -> "
                f"{_x(self.out_size)}"
            )
        return (
            f"matrix {self.name!r} %{self.input} -> %{self.output}: {self.planes} planes, "
            f"{_x(self.size)} positions x {self.out_channels} channels, reduction "
            f"{_x(self.taps)} x {self.step_bytes} bytes{pool}"
        )


@dataclass(frozen=True, kw_only=True)
class PoolWork:
    """Maximum over windows of `planes` images of `lines` x `columns` x `channels` bytes."""

    name: str
    layers: tuple[str, ...]
    source_nodes: tuple[str, ...]
    input: str
    output: str
    planes: int
    lines: int
    columns: int
    channels: int
    pool: Window2D
    out_size: tuple[int, int]

    def verify(self) -> None:
        """As `MatrixWork.verify`."""
        require = _Require(self.name)
        require.below(self.lines, 1 << 16, "the number of input rows")
        require.below(self.columns, 1 << 16, "the number of input columns")
        row = self.columns * self.channels
        require.below(self.pool.dilations[0] * row, 1 << 19, "bytes between the kernel's rows")
        require.below(
            self.pool.dilations[1] * self.channels, 1 << 19, "bytes between the kernel's columns"
        )
        require.below(self.pool.strides[0] * row, 1 << 23, "bytes between window rows")
        for axis in (0, 1):
            require.below(self.pool.kernel[axis], 256, "a pooling kernel")
            require.below(self.pool.strides[axis], 64, "a pooling stride")
            require.below(self.pool.dilations[axis], 16, "a pooling dilation")
            require.below(self.pool.pads[axis], 128, "a pooling pad")

    def __str__(self) -> str:
        return (
            f"pool {self.name!r} %{self.input} -> %{self.output}: {self.planes} planes, "
            f"{self.lines}x{self.columns}x{self.channels}, maximum {_x(self.pool.kernel)} by "
            f"{_x(self.pool.strides)} -> {_x(self.out_size)}"
        )


Work = MatrixWork | PoolWork


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredNetwork:
    """The machine's part of a network for groups of `images` images; `str` prints it."""

    name: str
    images: int
    buffers: dict[str, Buffer]
    works: tuple[Work, ...]
    inputs: tuple[str, ...]
    """Buffers that the host writes."""
    outputs: tuple[str, ...]
    """Buffers that the host reads."""

    def readers(self, buffer: str) -> tuple[Work, ...]:
        """The works that read `buffer`, in order."""
        return tuple(work for work in self.works if work.input == buffer)

    def verify(self) -> None:
        """Check every work's limits, and that sizes agree with the buffers.

        Raises
        ------
        UnsupportedModelError
            An instruction field cannot hold a layer's figure.
        """
        for work in self.works:
            work.verify()
            source, target = self.buffers[work.input], self.buffers[work.output]
            if isinstance(work, MatrixWork):
                assert source.size_bytes == work.planes * work.lines * work.line_bytes, work.name
                channels = work.out_channels
                for axis in (0, 1):
                    size = window_output_size(
                        work.size[axis], work.pool.kernel[axis], work.pool.strides[axis],
                        work.pool.pads[axis], 0, work.pool.dilations[axis],
                    )
                    # Pads below and to the right add at most the outputs that they make.
                    assert work.out_size[axis] >= size, work.name
            else:
                assert source.size_bytes == (
                    work.planes * work.lines * work.columns * work.channels
                ), work.name
                channels = work.channels
            rows, columns = work.out_size
            assert target.size_bytes == work.planes * rows * columns * channels, work.name

    def __str__(self) -> str:
        lines = [f"lowered {self.name!r}, groups of {self.images} images {{"]
        lines += [
            f"  buffer %{item.name} {item.images} x {item.image_bytes} bytes"
            for item in self.buffers.values()
        ]
        lines += [f"  {work}" for work in self.works]
        return "\n".join([*lines, f"  outputs {', '.join('%' + n for n in self.outputs)}", "}"])


@dataclass(frozen=True)
class _Require:
    layer: str

    def below(self, value: int, limit: int, what: str) -> None:
        if value >= limit:
            raise UnsupportedModelError(
                f"layer {self.layer!r}: {what} must be below {limit} on this machine, but is "
                f"{value}; split the layer, or make it smaller"
            )


def _x(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
