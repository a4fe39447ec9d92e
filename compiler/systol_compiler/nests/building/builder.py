"""The builder that layers add their nests to: where tensors lie, and the loops over them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.buffer import PLANE_ALIGNMENT, Buffer, Home
from systol_compiler.nests.building.movement import (
    Clip,
    copy_cycles,
    product_by_channel,
    product_copy,
    row_cycles,
)
from systol_compiler.nests.building.rows import (
    channel_pieces,
    contiguous,
    pieces,
    row_axis,
    uniform,
)
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.operand import Operand, image_operand
from systol_compiler.nests.vector import Copy, Operation, Requantize, VectorNest
from systol_compiler.nests.view import View, packed_strides
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.limits import bounds
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa.choices import Reduce

CHANNELS_LAST = (0, 2, 3, 1)
"""Memory order of images: [N, C, H, W] lies as N, H, W, C."""


def natural(rank: int) -> tuple[int, ...]:
    """The last axis innermost."""
    return tuple(range(rank))


class NestBuilder:
    """Collects nests and buffers of a machine segment.

    Attributes
    ----------
    arch
        The machine.
    orders
        Memory order by tensor.
    """

    def __init__(
        self,
        arch: Arch,
        tensors: Mapping[str, QTensor],
        orders: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.arch, self.tensors, self.orders = arch, tensors, orders
        self.buffers: dict[str, Buffer] = {}
        self.nests: list[Nest] = []
        self.layer = ""
        self.sources: tuple[str, ...] = ()
        self._views: dict[str, View] = {}
        self._claims: dict[str, Callable[[], View]] = {}
        self._packed: dict[tuple[str, tuple[int, ...]], View] = {}
        self._constants: dict[tuple[str, bytes], str] = {}
        self._names: dict[str, int] = {}
        self._written: dict[str, int] = {}

    # Tensors

    def tensor(self, name: str) -> QTensor:
        """The description of a tensor."""
        return self.tensors[name]

    def view(self, name: str) -> View:
        """Where a tensor that exists already lies."""
        return self._views[name]

    def alias(self, name: str, view: View) -> None:
        """Let the tensor `name` be `view`: nothing is moved."""
        assert view.shape == self.tensors[name].shape, (name, view)
        self._views[name] = view

    def claim(self, name: str, place: Callable[[], View]) -> None:
        """Let the tensor `name`, when it comes to be written, lie where `place` says."""
        self._claims.setdefault(name, place)

    def claimed(self, name: str) -> bool:
        """Whether the tensor has a place already."""
        return name in self._claims or name in self._views

    def promised(self, name: str) -> View | None:
        """The place that another tensor's layer offers for `name`, if one does."""
        return self.place(name) if name in self._claims else None

    def place(self, name: str) -> View:
        """A place for the tensor `name`, which the caller's nests then write: part of another
        tensor's buffer if that claims it, else a buffer of its own in the tensor's order."""
        if name not in self._views:
            claim = self._claims.get(name)
            self._views[name] = claim() if claim else self._own_buffer(name)
        return self._views[name]

    def _own_buffer(self, name: str, home: Home = Home.NONE) -> View:
        tensor, order = self.tensors[name], self.orders[name]
        buffer = Buffer(
            name=self.fresh(name), plane_bytes=tensor.size, planes=tensor.width // 8, home=home,
            tensor=name, order=order,
        )
        return self._add_buffer(buffer, tensor.shape, order)

    def add_input(self, name: str) -> None:
        """A tensor that the host (or an earlier segment) gives."""
        self._views[name] = self._own_buffer(name, Home.INPUT)

    def show_copy(self, name: str) -> None:
        """Copy the tensor `name` to a buffer of its own, packed in its order."""
        view = self._views[name]
        target = self._own_buffer(name)
        self.elementwise(Copy(), target, view)
        self._views[name] = target

    def add_constant(self, name: str, codes: npt.NDArray[np.integer]) -> None:
        """A constant tensor of the graph; `codes` are int8 or int16 in the axes' order."""
        order = self.orders[name]
        data = byte_planes(codes.transpose(order), self.tensors[name].width)
        buffer = self.constant(name, data, planes=self.tensors[name].width // 8)
        self._views[name] = View(
            buffer=buffer, offset=0, shape=codes.shape,
            strides=packed_strides(codes.shape, order), planes=self.tensors[name].width // 8,
        )

    def scratch(self, shape: Sequence[int], order: Sequence[int], width: int = 8) -> View:
        """A new buffer inside the current layer, packed in `order`."""
        size = int(np.prod(shape))
        buffer = Buffer(name=self.fresh(self.layer), plane_bytes=size, planes=width // 8)
        return self._add_buffer(buffer, tuple(shape), tuple(order))

    def _add_buffer(self, buffer: Buffer, shape: tuple[int, ...], order: tuple[int, ...]) -> View:
        self.buffers[buffer.name] = buffer
        return View(
            buffer=buffer.name, offset=0, shape=shape, strides=packed_strides(shape, order),
            planes=buffer.planes,
        )

    def constant(self, wish: str, data: npt.NDArray[np.uint8], *, planes: int = 1) -> str:
        """The name of a constant buffer of `data` (with two planes: as `byte_planes` lays them
        out); equal contents share one."""
        key = (str(planes), data.tobytes())
        if key not in self._constants:
            size = data.size if planes == 1 else _low_plane_bytes(data.size)
            name = self.fresh(wish)
            self.buffers[name] = Buffer(
                name=name, plane_bytes=size, planes=planes, home=Home.CONSTANT, data=data
            )
            self._constants[key] = name
        return self._constants[key]

    def parameters(
        self,
        bias: npt.NDArray[np.integer],
        multipliers: npt.NDArray[np.integer],
        shifts: npt.NDArray[np.integer],
    ) -> str:
        """A constant buffer of requantization parameters, 8 bytes each (docs/numerics.md, 4)."""
        packed = np.zeros((len(bias), PARAMETER_BYTES), np.uint8)
        packed[:, :4] = bias.astype("<i4").view(np.uint8).reshape(-1, 4)
        packed[:, 4:7] = multipliers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
        packed[:, 7] = shifts
        return self.constant(f"{self.layer}.parameters", packed.reshape(-1))

    def rescale(self, bias: int, multiplier: int, shift: int) -> Requantize:
        """The same requantization of every value, or of every window's sum."""
        parameters = self.parameters(np.array([bias]), np.array([multiplier]), np.array([shift]))
        return Requantize(parameters=parameters, reduce=Reduce.MEAN)

    def fresh(self, wish: str) -> str:
        """A buffer or nest name that is not taken, beginning with `wish`."""
        count = self._names.get(wish, 0)
        self._names[wish] = count + 1
        return wish if count == 0 else self.fresh(f"{wish}.{count}")

    # Nests

    def add(self, nest: Nest) -> None:
        """Append a nest."""
        self.nests.append(nest)
        name = nest.output.buffer
        self._written[name] = self._written.get(name, 0) + nest.output.box.size

    def complete(self, name: str) -> bool:
        """Whether every byte of the buffer has been written by now."""
        buffer = self.buffers[name]
        return (
            buffer.home in (Home.INPUT, Home.CONSTANT)
            or self._written.get(name, 0) >= buffer.plane_bytes
        )

    def image(self, view: View) -> Operand:
        """A [N, H, W, C] view as an operand, copied if its channels are not contiguous."""
        operand = image_operand(view)
        if operand is None:
            operand = image_operand(self.packed(view, natural(4)))
            assert operand is not None
        return operand

    def packed(self, view: View, order: Sequence[int]) -> View:
        """`view` itself if it lies packed in `order`, else a copy that does."""
        if view.is_packed(order):
            return view
        key = (str(view), tuple(order))
        if key not in self._packed:
            target = self.scratch(view.shape, order, 8 * view.planes)
            self.elementwise(Copy(), target, view)
            self._packed[key] = target
        return self._packed[key]

    def elementwise(
        self, operation: Operation, out: View, a: View | None, b: View | None = None, *,
        zero_point: int = 0, lo: int | None = None, hi: int | None = None,
        channel_axis: int | None = None,
    ) -> None:
        """Nests of `operation` over all elements of `out`; `a` and `b` have its shape (broadcast
        ones with strides of 0).

        `channel_axis` names the axis that per-channel parameters belong to. Otherwise loops are
        merged as far as strides allow, so that rows are as wide as the array. Operands that are
        not contiguous along the result's rows are copied first where that is cheaper than rows of
        one byte; a plain copy itself goes through the matrix unit then.
        """
        least, greatest = bounds(8 * out.planes)
        least, greatest = least if lo is None else lo, greatest if hi is None else hi
        views = [view for view in (out, a, b) if view is not None]
        if channel_axis is not None:
            self._channelwise(operation, views, channel_axis, zero_point, least, greatest)
            return
        if operation == Copy():
            if row_axis(out) is not None and self.buffers[views[1].buffer].data is not None:
                views[1] = self._constant_rows(views[1], out)
            copied = product_copy(self, out, views[1])
            if copied is not None:
                copied(Clip(lo=least, hi=greatest))
                return
            self._vector(operation, pieces(views, self.arch.columns), zero_point, least, greatest)
            return
        if b is not None and out.size > 1 and uniform(b):
            self._aligned(views, 2)
            row = self._repeated(b)
            parts = pieces(views[:2], self.arch.columns, repeated=row)
        else:
            self._aligned(views, len(views))
            parts = pieces(views, self.arch.columns)
        self._vector(operation, parts, zero_point, least, greatest)

    def _channelwise(
        self, operation: Operation, views: list[View], axis: int, zero_point: int, lo: int,
        hi: int,
    ) -> None:
        out = views[0]
        if isinstance(operation, Requantize) and not contiguous(views[1], axis):
            turned = product_by_channel(self, out, views[1], axis)
            if turned is not None:
                turned(Clip(
                    lo=lo, hi=hi, parameters=operation.parameters, zero_point=zero_point
                ))
                return
        order = [*(k for k in range(len(out.shape)) if k != axis), axis]
        for place, view in enumerate(views[1:], 1):
            if not contiguous(view, axis):
                views[place] = self.packed(view, order)
        target = out if contiguous(out, axis) else self.scratch(out.shape, order, 8 * out.planes)
        views = [target, *views[1:]]
        if isinstance(operation, Requantize) and operation.per_channel:
            operation, views = self._wide_channels(operation, views, axis)
        self._vector(
            operation, channel_pieces(views, axis, self.arch.columns), zero_point, lo, hi
        )
        if target is not out:
            self.elementwise(Copy(), out, target)

    def _wide_channels(
        self, operation: Requantize, views: list[View], axis: int
    ) -> tuple[Requantize, list[View]]:
        """Few channels, with parameters repeated for as many neighbouring positions as fill the
        rows of the array best."""
        channels, columns = views[0].shape[axis], self.arch.columns
        for k, size in enumerate(views[0].shape):
            if size == 1 or any(view.strides[k] != channels for view in views):
                continue
            times = min(
                (n for n in range(1, 2 * columns // channels + 1) if size % n == 0),
                key=lambda n: (-(-n * channels // columns) * (size // n), n), default=1,
            )
            if times == 1:
                break
            data = self.buffers[operation.parameters].data
            assert data is not None, operation
            sets = data[: channels * PARAMETER_BYTES]
            parameters = self.constant(f"{operation.parameters}.wide", np.tile(sets, times))
            return replace(operation, parameters=parameters), [
                _regrouped(view, k, axis, times) for view in views
            ]
        return operation, views

    def _aligned(self, views: list[View], count: int) -> None:
        """Replace those of the operands `views[1:count]` that are not contiguous along the rows
        of `views[0]` by copies that are, where that is cheaper."""
        out = views[0]
        axis = row_axis(out)
        if axis is None:
            return
        for place in range(1, count):
            if self.buffers[views[place].buffer].data is not None:
                views[place] = self._constant_rows(views[place], out)
        odd = [place for place in range(1, count) if not contiguous(views[place], axis)]
        if not odd:
            return
        dense = {place: _dense(views[place], axis) for place in odd}
        order = _memory_order(out)
        trial = [
            view if place not in odd else replace(
                view, strides=_rows_strides(dense[place].shape, order, view.shape)
            )
            for place, view in enumerate(views)
        ]
        cycles = row_cycles(trial, self)
        for place in odd:
            shape = dense[place].shape
            target = replace(views[place], shape=shape, strides=packed_strides(shape, order))
            cycles += copy_cycles(self, target, dense[place])
        if cycles < row_cycles(views, self):
            for place in odd:
                shape = views[place].shape
                views[place] = self.packed(dense[place], order).expand(shape)

    def _constant_rows(self, view: View, out: View) -> View:
        """A constant operand as it is read along the rows of `out`: repeated along as many axes
        as fill a row of the array."""
        order = _memory_order(out)
        keep = [size if view.strides[k] != 0 else 1 for k, size in enumerate(view.shape)]
        filled = 1
        for axis in reversed(order):
            if filled >= self.arch.columns or filled * out.shape[axis] > 16 * self.arch.columns:
                break
            keep[axis] = out.shape[axis]
            filled *= out.shape[axis]
        kept = replace(view, shape=tuple(keep))
        if kept.is_packed(order):
            return view
        return self._gathered(kept, order).expand(view.shape)

    def _gathered(self, view: View, order: Sequence[int]) -> View:
        """The elements of a view of a constant as a constant of their own, packed in `order`."""
        buffer = self.buffers[view.buffer]
        assert buffer.data is not None
        parts = [
            _gather(buffer.data[plane * buffer.plane_pitch :], view).transpose(order).reshape(-1)
            for plane in range(buffer.planes)
        ]
        pitch = -(-view.size // PLANE_ALIGNMENT) * PLANE_ALIGNMENT
        data = np.zeros(pitch * (len(parts) - 1) + view.size, np.uint8)
        for plane, values in enumerate(parts):
            data[plane * pitch : plane * pitch + view.size] = values
        return View(
            buffer=self.constant(f"{view.buffer}.rows", data, planes=buffer.planes), offset=0,
            shape=view.shape, strides=packed_strides(view.shape, order), planes=buffer.planes,
        )

    def _repeated(self, view: View) -> View:
        """One row of the array's width of the element that `view` repeats everywhere."""
        row = replace(view, shape=(self.arch.columns,), strides=(0,))
        if self.buffers[view.buffer].data is not None:
            return self._gathered(row, (0,))
        return self.packed(row, (0,))

    def _vector(
        self, operation: Operation, parts: Sequence[Sequence[Operand]], zero_point: int, lo: int,
        hi: int,
    ) -> None:
        for output, *operands in parts:
            self.add(
                VectorNest(
                    name=self.fresh(self.layer), layer=self.layer, source_nodes=self.sources,
                    operation=operation, output=output, a=operands[0] if operands else None,
                    b=operands[1] if len(operands) > 1 else None,
                    zero_point=zero_point, lo=lo, hi=hi,
                )
            )

    def windowed(
        self, operation: Operation, out: View, a: View, window: Window2D, *,
        zero_point: int = 0, lo: int | None = None, hi: int | None = None,
    ) -> None:
        """A nest of `operation` over windows; `out` and `a` are [N, H, W, C]."""
        target = image_operand(out)
        assert target is not None, f"layer {self.layer!r}: the result's channels are strided"
        least, greatest = bounds(8 * out.planes)
        self.add(
            VectorNest(
                name=self.fresh(self.layer), layer=self.layer, source_nodes=self.sources,
                operation=operation, output=target, a=self.image(a), window=window,
                zero_point=zero_point,
                lo=least if lo is None else lo, hi=greatest if hi is None else hi,
            )
        )


def byte_planes(codes: npt.NDArray[np.integer], width: int) -> npt.NDArray[np.uint8]:
    """Codes in row-major order as bytes; of 16 bits the low plane, then (64-byte aligned) the
    high one, both balanced signed bytes."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    if width == 8:
        return flat.astype(np.int8).view(np.uint8)
    wide = flat.astype(np.int32)
    low = ((wide + 128) & 255) - 128
    high = (wide - low) >> 8
    pitch = -(-flat.size // 64) * 64
    data = np.zeros(pitch + flat.size, np.uint8)
    data[: flat.size] = low.astype(np.int8).view(np.uint8)
    data[pitch:] = high.astype(np.int8).view(np.uint8)
    return data


def from_byte_planes(
    data: npt.NDArray[np.uint8], count: int, width: int
) -> npt.NDArray[np.integer]:
    """The inverse of `byte_planes`: int8 or int16 [count]."""
    low = data[:count].view(np.int8)
    if width == 8:
        return low
    pitch = -(-count // 64) * 64
    high = data[pitch : pitch + count].view(np.int8).astype(np.int16)
    return (high * np.int16(256) + low).astype(np.int16)


def _low_plane_bytes(size: int) -> int:
    # size = pitch + n with pitch the next multiple of 64 from n on.
    pitch = size // 2 // 64 * 64
    while -(-(size - pitch) // 64) * 64 != pitch:
        pitch += 64
    return size - pitch


def _gather(data: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    index = np.full(view.shape, view.offset, np.int64)
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        steps = np.arange(size, dtype=np.int64) * stride
        index += steps.reshape((-1,) + (1,) * (len(view.shape) - axis - 1))
    return data[index]


def _dense(view: View, axis: int) -> View:
    """`view` without its repetitions, those along `axis` excepted."""
    return replace(
        view,
        shape=tuple(
            1 if stride == 0 and k != axis else size
            for k, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True))
        ),
    )


def _regrouped(view: View, axis: int, channels: int, times: int) -> View:
    """`view` with `times` neighbours along `axis`, which lie side by side, among the channels."""
    shape, strides = list(view.shape), list(view.strides)
    shape[axis] //= times
    strides[axis] *= times
    shape[channels] *= times
    strides[channels] = 1
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def _memory_order(view: View) -> tuple[int, ...]:
    """The axes from the largest stride to the smallest."""
    return tuple(sorted(range(len(view.shape)), key=lambda k: -abs(view.strides[k])))


def _rows_strides(
    shape: Sequence[int], order: Sequence[int], wide: Sequence[int]
) -> tuple[int, ...]:
    """Strides of a tensor of `shape` that lies packed in `order`, broadcast to the shape `wide`."""
    return tuple(
        stride if size == full else 0
        for size, full, stride in zip(shape, wide, packed_strides(shape, order), strict=True)
    )
