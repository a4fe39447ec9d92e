"""The builder that layers add their nests to: where tensors lie, and the loops over them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.operand import (
    Loop,
    Operand,
    common_loops,
    image_operand,
    loops_to_operands,
)
from systol_compiler.nests.vector import Binary, Copy, Operation, VectorNest
from systol_compiler.nests.view import View, packed_strides
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.limits import bounds
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PARAMETER_BYTES, Arch

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

    def shared_parameters(self, bias: int, multiplier: int, shift: int) -> str:
        """Parameters that serve every channel alike: one set for each of the array's columns."""
        full = np.ones(self.arch.columns, np.int64)
        return self.parameters(bias * full, multiplier * full, shift * full)

    def fresh(self, wish: str) -> str:
        """A buffer or nest name that is not taken, beginning with `wish`."""
        count = self._names.get(wish, 0)
        self._names[wish] = count + 1
        return wish if count == 0 else self.fresh(f"{wish}.{count}")

    # Nests

    def add(self, nest: Nest) -> None:
        """Append a nest."""
        self.nests.append(nest)

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

        `channel_axis` names the axis that per-channel parameters belong to: it must have stride 1
        in all views. Otherwise loops are merged as far as strides allow, so that rows are as wide
        as the array.
        """
        views = [view for view in (out, a, b) if view is not None]
        if channel_axis is not None:
            loops = common_loops([_without(view, channel_axis) for view in views])
            width = out.shape[channel_axis]
            self._vector(operation, views, loops, width, zero_point, lo, hi)
            return
        if b is not None and any(b.strides) is False and b.size > 1:
            views[2] = self._repeated(b)
            self._uniform(operation, views, zero_point, lo, hi)
            return
        loops = self._rows(views)
        if b is not None and loops and loops[-1][1][:2] == (1, 1) and loops[-1][1][2] != 1:
            # The machine reads operand B byte by byte along a row: spread out what repeats.
            self.elementwise(
                operation, out, a, self.spread(b, out), zero_point=zero_point, lo=lo, hi=hi
            )
            return
        if not loops or any(stride != 1 for stride in loops[-1][1]):
            self._vector(operation, views, loops, 1, zero_point, lo, hi)
            return
        outer, size, columns = loops[:-1], loops[-1][0], self.arch.columns
        if outer or size <= columns:
            self._vector(operation, views, outer, size, zero_point, lo, hi)
            return
        # One long run: rows of the array's width, and a rest.
        rows = size // columns
        steps = (columns,) * len(views)
        self._vector(operation, views, [(rows, steps)], columns, zero_point, lo, hi)
        if size % columns:
            rest = [replace(v, offset=v.offset + rows * columns) for v in views]
            self._vector(operation, rest, [], size % columns, zero_point, lo, hi)

    def _rows(self, views: Sequence[View]) -> list[Loop]:
        """Loops over `views`: as they are where the innermost axis fills the array's columns, so
        that bands of image rows stay bands of image rows; else merged."""
        split = common_loops(views, merge=False)
        full = bool(split) and split[-1][0] % self.arch.columns == 0
        if full and len(split) <= 4 and all(stride == 1 for stride in split[-1][1]):
            return split
        return common_loops(views)

    def _repeated(self, view: View) -> View:
        """One row of the array's width of the element that `view` repeats everywhere."""
        one = replace(view, shape=(1,), strides=(1,))
        return self.spread(one, one.expand((self.arch.columns,)), (self.arch.columns,))

    def _uniform(
        self, operation: Operation, views: list[View], zero_point: int, lo: int | None,
        hi: int | None,
    ) -> None:
        """As `elementwise`; the last view is one row that every row of the others meets."""
        row, columns = views[2], self.arch.columns
        for (offsets, size), outer in _runs(common_loops(views[:2]), views[:2]):
            spots = [replace(v, offset=o) for v, o in zip(views[:2], offsets, strict=True)]
            for low in range(0, size, columns) if outer else (0,):
                width = min(columns, size - low)
                moved = [replace(v, offset=v.offset + low) for v in spots]
                turns = [(n, (*strides, 0)) for n, strides in outer]
                if not outer and size > columns:
                    turns, width = [(size // columns, (columns, columns, 0))], columns
                self._vector(operation, [*moved, row], turns, width, zero_point, lo, hi)
            if not outer and size > columns and size % columns:
                done = size // columns * columns
                rest = [replace(v, offset=v.offset + done) for v in spots]
                self._vector(operation, [*rest, row], [], size % columns, zero_point, lo, hi)

    def spread(self, view: View, out: View, shape: Sequence[int] | None = None) -> View:
        """The elements of `view`, broadcast to `out`'s shape, without repetitions along the axis
        in which `out` is contiguous: of a constant at once, else copied by the machine."""
        wanted = tuple(out.shape if shape is None else shape)
        wide = view.expand(wanted)
        buffer = self.buffers[view.buffer]
        along = [axis for axis, stride in enumerate(out.strides) if stride == 1]
        keep = tuple(
            size if wide.strides[axis] != 0 or axis in along or shape is not None else 1
            for axis, size in enumerate(wanted)
        )
        dense = replace(wide, shape=keep)
        order = sorted(range(len(keep)), key=lambda axis: -abs(out.strides[axis]))
        if buffer.data is not None:
            planes = [
                _gather(buffer.data[plane * buffer.plane_pitch :], dense)
                .transpose(order).reshape(-1)
                for plane in range(buffer.planes)
            ]
            pitch = -(-planes[0].size // 64) * 64
            data = np.zeros(pitch * (len(planes) - 1) + planes[0].size, np.uint8)
            for plane, values in enumerate(planes):
                data[plane * pitch : plane * pitch + values.size] = values
            name = self.constant(f"{view.buffer}.spread", data, planes=buffer.planes)
            target = View(
                buffer=name, offset=0, shape=keep, strides=packed_strides(keep, order),
                planes=buffer.planes,
            )
        else:
            target = self.scratch(keep, order, 8 * view.planes)
            self.elementwise(Copy(), target, dense)
        return target.expand(wanted)

    def _vector(
        self, operation: Operation, views: Sequence[View], loops: Sequence[Loop], width: int,
        zero_point: int, lo: int | None, hi: int | None,
    ) -> None:
        pieces = _bounded(list(loops), [view.offset for view in views])
        for offsets, piece in pieces:
            moved = [replace(v, offset=o) for v, o in zip(views, offsets, strict=True)]
            operands = loops_to_operands(moved, piece, width)
            least, greatest = bounds(8 * views[0].planes)
            self.add(
                VectorNest(
                    name=self.fresh(self.layer), layer=self.layer, source_nodes=self.sources,
                    operation=operation, output=operands[0],
                    a=operands[1] if len(operands) > 1 else None,
                    b=operands[2] if isinstance(operation, Binary) else None,
                    zero_point=zero_point,
                    lo=least if lo is None else lo, hi=greatest if hi is None else hi,
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


def _runs(
    loops: list[Loop], views: Sequence[View]
) -> list[tuple[tuple[list[int], int], list[Loop]]]:
    """The contiguous run that all views share, and the loops around it."""
    offsets = [view.offset for view in views]
    if loops and all(stride == 1 for stride in loops[-1][1]):
        return [((offsets, loops[-1][0]), loops[:-1])]
    return [((offsets, 1), loops)]


def _without(view: View, axis: int) -> View:
    return view.slice(axis, 0, 1)


_MOST_TURNS = 65_535
_MOST_PLANES = 256


def _bounded(loops: list[Loop], offsets: list[int]) -> list[tuple[list[int], list[Loop]]]:
    """Loops cut so that the last two fit instruction counts and the others are few planes."""
    result = [(offsets, loops)]
    for place in range(len(loops)):
        cut: list[tuple[list[int], list[Loop]]] = []
        for start, piece in result:
            size, strides = piece[place]
            for low in range(0, size, _MOST_TURNS):
                part = min(_MOST_TURNS, size - low)
                moved = [o + low * s for o, s in zip(start, strides, strict=True)]
                cut.append((moved, [*piece[:place], (part, strides), *piece[place + 1 :]]))
        result = cut
    return result
