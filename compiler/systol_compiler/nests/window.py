"""Windows of pooling and of convolutions, and which inputs an output range needs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window2D:
    """Windows over an image: sizes and steps are (vertical, horizontal), in elements."""

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    """(top, left); below and to the right the output's size decides."""

    def span(self, axis: int, first: int, last: int, size: int) -> tuple[int, int]:
        """Input coordinates that outputs `first .. last - 1` read, clipped to 0 .. size."""
        low = first * self.strides[axis] - self.pads[axis]
        high = (last - 1) * self.strides[axis] - self.pads[axis]
        high += self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return max(low, 0), min(high, size)

    @property
    def taps(self) -> int:
        """Positions that it covers."""
        return self.kernel[0] * self.kernel[1]


WHOLE = Window2D()
"""One tap: no window."""
