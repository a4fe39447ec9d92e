"""Runs a lowered network in numpy: what nests mean, as docs/isa.md and docs/numerics.md define it.

Buffers are bytes; each nest reads and writes them as its instructions would, so that layouts,
paddings, byte planes and parameters are tested, and not the layers' definitions once more. Bytes
that nothing has written are noise.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import Binary, Copy, Fill, Requantize, Table, VectorNest
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.arithmetic import requantize, round_shift, saturate
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa.choices import Function, Reduce

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_NO_TAP = -(1 << 31)


def interpret(
    network: LoweredNetwork,
    tensors: Mapping[str, QTensor],
    values: Mapping[str, Array],
    arch: Arch,
    *,
    seed: int = 0,
) -> dict[str, Array]:
    """The output tensors, int8 or int16 in the order of the tensors' axes.

    `values` are the codes of the input tensors, also in the axes' order; `seed` that of the noise.
    """
    noise = np.random.default_rng(seed)
    memory: dict[str, Bytes] = {}
    for name, buffer in network.buffers.items():
        if buffer.data is not None:
            memory[name] = buffer.data
            continue
        memory[name] = noise.integers(0, 256, buffer.size_bytes, np.uint8)
        if buffer.home is Home.INPUT:
            codes = values[buffer.tensor].transpose(buffer.order)
            data = byte_planes(codes, 8 * buffer.planes)
            memory[name][: data.size] = data
    machine = _Machine(network.buffers, memory, arch)
    for nest in network.nests:
        if isinstance(nest, MatrixNest):
            machine.matrix(nest)
        else:
            assert isinstance(nest, VectorNest), nest
            machine.vector(nest)
    results: dict[str, Array] = {}
    for buffer in network.of_home(Home.OUTPUT):
        shape = tensors[buffer.tensor].shape
        stored = tuple(shape[axis] for axis in buffer.order)
        codes = from_byte_planes(memory[buffer.name], int(np.prod(stored)), 8 * buffer.planes)
        results[buffer.tensor] = codes.reshape(stored).transpose(np.argsort(buffer.order))
    return results


class _Machine:
    """Memory, and the two units that work on it."""

    def __init__(
        self, buffers: Mapping[str, Buffer], memory: dict[str, Bytes], arch: Arch
    ) -> None:
        self.buffers, self.memory, self.arch = buffers, memory, arch

    # Access

    def _index(self, operand: Operand, plane: int, width: int) -> Int64:
        """Byte offsets [lines, positions, width] of the low bytes of a plane."""
        index = (
            operand.planes[plane]
            + np.arange(operand.lines, dtype=np.int64)[:, None, None] * operand.line_pitch
            + np.arange(operand.positions, dtype=np.int64)[:, None] * operand.position_pitch
            + np.arange(width, dtype=np.int64)
        )
        size = self.buffers[operand.buffer].plane_bytes
        assert index.min() >= 0 and index.max() < size, f"{operand} leaves its buffer"
        return index

    def _bytes(self, operand: Operand, index: Int64, byte_plane: int) -> Int64:
        pitch = self.buffers[operand.buffer].plane_pitch
        data = self.memory[operand.buffer].view(np.int8)
        values: Int64 = data[index + byte_plane * pitch].astype(np.int64)
        return values

    def read(self, operand: Operand, plane: int) -> Int64:
        """The numbers [lines, positions, width] of a plane."""
        index = self._index(operand, plane, operand.width)
        values = self._bytes(operand, index, 0)
        if operand.byte_planes == 2:
            values = values + 256 * self._bytes(operand, index, 1)
        return values

    def write(self, operand: Operand, plane: int, codes: Array) -> None:
        """Store int8 or int16 codes [lines, positions, width]."""
        index = self._index(operand, plane, operand.width)
        assert codes.shape == index.shape, (codes.shape, operand)
        assert np.unique(index).size == index.size, f"{operand} writes a byte twice"
        buffer = self.buffers[operand.buffer]
        assert buffer.home is not Home.CONSTANT, f"{operand} is constant"
        memory = self.memory[operand.buffer].view(np.int8)
        wide = codes.astype(np.int64)
        low = ((wide + 128) & 255) - 128
        memory[index] = low.astype(np.int8)
        if operand.byte_planes == 2:
            memory[index + buffer.plane_pitch] = ((wide - low) >> 8).astype(np.int8)

    def parameters(self, name: str, count: int) -> tuple[Int64, Int64, Int64]:
        """Bias, multiplier and shift of the first `count` sets of a constant buffer."""
        raw = self.memory[name][: count * PARAMETER_BYTES].reshape(count, PARAMETER_BYTES)
        bias = raw[:, :4].copy().view("<i4")[:, 0].astype(np.int64)
        factor = raw[:, 4:7].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16]) & 0x3FFFF
        multiplier = np.where(factor >= 1 << 17, factor - (1 << 18), factor)
        return bias, multiplier, raw[:, 7].astype(np.int64) & 63

    # Matrix unit

    def matrix(self, nest: MatrixNest) -> None:
        """Products, windows over them, requantization."""
        bias, multiplier, shift = self.parameters(nest.parameters, nest.outputs)
        lines, positions = nest.output.lines, nest.output.positions
        assert nest.output.width == nest.outputs, nest
        assert len(nest.input.planes) == nest.planes, nest
        for plane in range(nest.planes):
            sums = self._products(nest, plane)
            if nest.pooled:
                sums, _ = reduced(sums, nest.pool, (lines, positions), Reduce.MAX)
            codes = requantize(
                wrap32(sums + bias), multiplier, shift, nest.zp_out, nest.lo, nest.hi,
                8 * nest.output.byte_planes,
            )
            self.write(nest.output, plane, codes)

    def _products(self, nest: MatrixNest, plane: int) -> Int64:
        """Accumulators [rows, columns, outputs] of a plane."""
        sums = np.zeros((*nest.size, nest.outputs), np.int64)
        taps = nest.taps[0] * nest.taps[1]
        for place, shift in enumerate(nest.passes):
            byte_plane, weights = self._pass(nest, plane, place)
            weights = weights.reshape(taps, nest.step_bytes, nest.outputs)
            rows = self._padded_rows(nest, plane, byte_plane)
            for first in range(0, nest.outputs, nest.tile_outputs):
                tile = slice(first, first + nest.tile_outputs)
                moved = first // nest.tile_outputs * nest.tile_bytes
                for tap in range(taps):
                    k0, k1 = divmod(tap, nest.taps[1])
                    live = _step(nest, rows, k0, k1, moved)
                    product = live @ weights[tap, :, tile].astype(np.float64)
                    sums[:, :, tile] += product.astype(np.int64) << (8 * shift)
        return wrap32(sums)

    def _pass(self, nest: MatrixNest, plane: int, place: int) -> tuple[int, Int64]:
        """The activations' byte plane, and the weights [reduction, outputs], of a turn."""
        if isinstance(nest.weights, StoredWeights):
            assert nest.weights.values.shape[1] == nest.outputs, nest
            return len(nest.passes) - 1 - place, nest.weights.values.astype(np.int64)
        operand = nest.weights.operand
        weight_plane = 0
        byte_plane = len(nest.passes) - 1 - place
        if operand.byte_planes == 2:
            # High times high, high times low, low times high, low times low.
            wide = nest.input.byte_planes == 2
            byte_plane = 1 - place // 2 if wide else 0
            weight_plane = 1 - place % 2
        index = self._index(operand, min(plane, len(operand.planes) - 1), operand.width)
        values = self._bytes(operand, index, weight_plane)[:, 0]
        return byte_plane, values.T if nest.weights.transpose else values

    def _padded_rows(
        self, nest: MatrixNest, plane: int, byte_plane: int
    ) -> tuple[npt.NDArray[np.float64], int]:
        """A plane's lines as [lines, bytes], with one line of padding before and one behind and
        enough padding around each line; and where a line's first byte stands."""
        source = nest.input
        assert source.byte_planes == 1 or nest.zp_in == 0, nest
        tiles = -(-nest.outputs // nest.tile_outputs)
        pitch, line_bytes = source.position_pitch, line_width(source)
        left = max(nest.pads[1], 0) * pitch
        last = (nest.size[1] - 1) * nest.steps[1] - nest.pads[1]
        last += (nest.taps[1] - 1) * nest.tap_steps[1]
        right = last * pitch + (tiles - 1) * nest.tile_bytes + nest.step_bytes
        rows = np.full(
            (source.lines + 2, left + max(line_bytes, right)), nest.zp_in, np.float64
        )
        across = np.arange(line_bytes, dtype=np.int64)
        starts = source.planes[plane] + np.arange(source.lines) * source.line_pitch
        index = starts[:, None] + across
        # Bytes between positions belong to others: they meet weights of zero.
        size = self.buffers[source.buffer].plane_bytes
        assert index.min() >= 0 and index.max() < size, nest
        rows[1:-1, left : left + line_bytes] = self._bytes(source, index, byte_plane)
        return rows, left

    # Vector unit

    def vector(self, nest: VectorNest) -> None:
        """One operation over all outputs."""
        for plane in range(len(nest.output.planes)):
            self.write(nest.output, plane, self._vector(nest, plane))

    def _vector(self, nest: VectorNest, plane: int) -> Array:
        operation, width = nest.operation, 8 * nest.output.byte_planes
        size = (nest.output.lines, nest.output.positions)
        if isinstance(operation, Fill):
            full = np.full((*size, nest.output.width), nest.zero_point, np.int64)
            return saturate(full, nest.zero_point, nest.zero_point, width)
        assert nest.a is not None and nest.a.width == nest.output.width, nest
        a = self.read(nest.a, plane)
        if isinstance(operation, Copy | Requantize):
            total, taps = reduced(a, nest.window, size, operation.reduce)
            if isinstance(operation, Copy):
                return saturate(total, nest.lo, nest.hi, width)
            return self._requantize(nest, operation, total, taps, width)
        assert a.shape[:2] == size, nest
        if isinstance(operation, Binary):
            assert nest.b is not None and nest.b.width == nest.output.width, nest
            result, shift = _binary(operation, a, self.read(nest.b, plane)), operation.shift
        else:
            result, shift = self._looked_up(operation, nest.a, a), operation.shift
        return saturate(
            round_shift(result, shift) + nest.zero_point, nest.lo, nest.hi, width
        )

    def _requantize(
        self, nest: VectorNest, operation: Requantize, total: Int64, taps: Int64, width: int
    ) -> Array:
        if operation.reduce is Reduce.MEAN:
            assert operation.count <= self.arch.columns, nest
            index = np.clip(taps, 1, operation.count)[:, :, None] - 1
            sets = operation.count
        else:
            index, sets = np.arange(nest.output.width), nest.output.width
        bias, multiplier, shift = self.parameters(operation.parameters, sets)
        return requantize(
            wrap32(total + bias[index]), multiplier[index], shift[index],
            nest.zero_point, nest.lo, nest.hi, width,
        )

    def _looked_up(self, operation: Table, source: Operand, a: Int64) -> Int64:
        u = np.clip(a + 32768, 0, 65535) if source.byte_planes == 2 else 256 * (a + 128)
        place, rest = u >> 8, u & 255
        memory = self.memory[operation.table]
        if not operation.wide:
            entries: Int64 = memory[:256].view(np.int8).astype(np.int64)
            looked_up: Int64 = 256 * entries[place]
            return looked_up
        knots: Int64 = memory[:514].view("<i2").astype(np.int64)
        between: Int64 = 256 * knots[place] + (knots[place + 1] - knots[place]) * rest
        return between


def line_width(operand: Operand) -> int:
    """Bytes from a line's first to its last: what lies beyond is padding."""
    return (operand.positions - 1) * operand.position_pitch + operand.width


def _step(
    nest: MatrixNest, rows: tuple[npt.NDArray[np.float64], int], k0: int, k1: int, moved: int
) -> npt.NDArray[np.float64]:
    """Activations [rows, columns, step_bytes] of a reduction step; `moved` bytes further."""
    padded, left = rows
    lines = np.arange(nest.size[0]) * nest.steps[0] - nest.pads[0] + k0 * nest.tap_steps[0]
    lines = np.clip(lines, -1, nest.input.lines) + 1
    columns = np.arange(nest.size[1]) * nest.steps[1] - nest.pads[1] + k1 * nest.tap_steps[1]
    starts = columns * nest.input.position_pitch + left + moved
    across = starts[:, None] + np.arange(nest.step_bytes)
    assert across.min() >= 0, nest
    step: npt.NDArray[np.float64] = padded[lines[:, None, None], across]
    return step


def reduced(
    values: Int64, window: Window2D, size: tuple[int, int], reduce: Reduce
) -> tuple[Int64, Int64]:
    """Maxima or sums [rows, columns, width] over the taps inside, and the numbers of those.

    Without any tap the maximum is -2**31, the sum 0.
    """
    maximum = reduce is Reduce.MAX
    total = np.full((*size, values.shape[2]), _NO_TAP if maximum else 0, np.int64)
    count = np.zeros(size, np.int64)
    for ky in range(window.kernel[0]):
        lines = np.arange(size[0]) * window.strides[0] - window.pads[0] + ky * window.dilations[0]
        ys = np.flatnonzero((lines >= 0) & (lines < values.shape[0]))
        for kx in range(window.kernel[1]):
            columns = np.arange(size[1]) * window.strides[1] - window.pads[1]
            columns += kx * window.dilations[1]
            xs = np.flatnonzero((columns >= 0) & (columns < values.shape[1]))
            inside = np.ix_(ys, xs)
            taps = values[np.ix_(lines[ys], columns[xs])]
            count[inside] += 1
            total[inside] = np.maximum(total[inside], taps) if maximum else total[inside] + taps
    return total if maximum else wrap32(total), count


def wrap32(values: Int64) -> Int64:
    """The congruent numbers in -2**31..2**31 - 1."""
    wrapped: Int64 = ((values + (1 << 31)) & ((1 << 32) - 1)) - (1 << 31)
    return wrapped


def _binary(operation: Binary, a: Int64, b: Int64) -> Int64:
    a, b = a - operation.a_zero_point, b - operation.b_zero_point
    if operation.function is Function.MUL:
        return a * b * operation.a_multiplier
    a, b = a * operation.a_multiplier, b * operation.b_multiplier
    if operation.function is Function.ADD:
        return a + b
    result: Int64 = (np.minimum if operation.function is Function.MIN else np.maximum)(a, b)
    return result
