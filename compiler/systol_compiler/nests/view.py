"""Views: tensors as strided looks into buffers; moving data is most often only arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor in a buffer: element `i` lies at `offset + sum(i[k] * strides[k])`, in bytes.

    Of a 16-bit tensor this is the low byte; the high one lies a plane further (`Buffer`). A stride
    of 0 repeats one element.
    """

    buffer: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    planes: int = 1

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def transpose(self, permutation: Sequence[int]) -> "View":
        """Axis k of the result is axis `permutation[k]` of this one."""
        return replace(
            self,
            shape=tuple(self.shape[axis] for axis in permutation),
            strides=tuple(self.strides[axis] for axis in permutation),
        )

    def slice(self, axis: int, start: int, size: int, step: int = 1) -> "View":
        """Elements `start, start + step, ...` along `axis`; `step` may be negative."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = size
        strides[axis] *= step
        return replace(
            self,
            offset=self.offset + start * self.strides[axis],
            shape=tuple(shape),
            strides=tuple(strides),
        )

    def reshape(self, shape: Sequence[int]) -> "View | None":
        """The same elements in row-major order of the axes as `shape`, or None if no strides say
        it."""
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        merged: list[tuple[int, int]] = []
        for size, stride in old:
            if merged and merged[-1][1] == size * stride:
                merged[-1] = (merged[-1][0] * size, stride)
            else:
                merged.append((size, stride))
        strides: list[int] = []
        rest = merged[::-1]
        left, stride = rest.pop(0) if rest else (1, 0)
        for size in reversed(shape):
            if size == 1:
                strides.append(0)
                continue
            while left == 1 and rest:
                left, stride = rest.pop(0)
            if left % size:
                return None
            strides.append(stride)
            left //= size
            stride *= size
        return replace(self, shape=tuple(shape), strides=tuple(reversed(strides)))

    def expand(self, shape: Sequence[int]) -> "View":
        """Broadcast to `shape` by the rules of numpy; axes of size 1 repeat."""
        lead = len(shape) - len(self.shape)
        own = (1,) * lead + self.shape
        strides = (0,) * lead + self.strides
        return replace(
            self,
            shape=tuple(shape),
            strides=tuple(
                stride if size == wanted else 0
                for size, wanted, stride in zip(own, shape, strides, strict=True)
            ),
        )

    def coincides(self, other: "View") -> bool:
        """Whether every element lies where that of `other` does."""
        return (self.buffer, self.offset, self.shape) == (
            other.buffer, other.offset, other.shape
        ) and all(
            own == theirs or size == 1
            for size, own, theirs in zip(self.shape, self.strides, other.strides, strict=True)
        )

    def is_packed(self, order: Sequence[int]) -> bool:
        """Whether the elements lie without gaps in the memory order `order` of the axes."""
        stride = 1
        for axis in reversed(order):
            if self.shape[axis] != 1 and self.strides[axis] != stride:
                return False
            stride *= self.shape[axis]
        return True

    def span(self) -> tuple[int, int]:
        """Half-open range of the bytes of the low plane that the elements lie in."""
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.offset + sum(r for r in reach if r < 0)
        return low, self.offset + sum(r for r in reach if r > 0) + 1

    def __str__(self) -> str:
        dims = ",".join(f"{n}:{s}" for n, s in zip(self.shape, self.strides, strict=True))
        return f"%{self.buffer}+{self.offset}[{dims}]"


def packed_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Byte strides by axis of a tensor that lies packed in the memory order `order`."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)
