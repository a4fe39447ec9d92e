"""How a convolution's channels and kernel columns are laid side by side in the array's tiles."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from systol_hw.arch import Arch

_MOST_TAPS = 255
"""Kernel columns (or groups of them) that one instruction loops over."""
_MOST_SEPARATE = 64
"""Groups that may have nests of their own, where several of them fit a tile."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What a packing depends on.

    Attributes
    ----------
    groups, per_group, per_output
        Groups, and input and output channels of each.
    kernel
        (rows, columns).
    dilation
        Of the kernel's columns.
    positions
        Output positions of all images.
    packed
        Whether the input's positions lie side by side, so that one step may reach over several.
    """

    groups: int
    per_group: int
    per_output: int
    kernel: tuple[int, int]
    dilation: int
    positions: int
    packed: bool

    @property
    def inputs(self) -> int:
        """Channels of a position."""
        return self.groups * self.per_group

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.groups * self.per_output


@dataclass(frozen=True, kw_only=True)
class Packing:
    """`groups` groups and `taps` kernel columns in one reduction step.

    `groups` of all groups: a dense product. Less: with `separate` each has a nest of its own,
    otherwise column tiles move over the input by the channels of `groups` groups.
    """

    groups: int
    taps: int
    separate: bool = False


def step_bytes(channels: Channels, packing: Packing) -> int:
    """Contiguous bytes of a reduction step."""
    reach = (packing.taps - 1) * channels.dilation * channels.inputs
    return reach + packing.groups * channels.per_group


def choose(channels: Channels, arch: Arch) -> Packing:
    """The cheapest packing; of equals the first, dense ones first."""
    return min(_candidates(channels, arch), key=lambda packing: cycles(channels, packing, arch))


def _candidates(channels: Channels, arch: Arch) -> Iterator[Packing]:
    columns = channels.kernel[1]
    least = -(-columns // _MOST_TAPS)
    if not channels.packed:
        taps = [1]
    elif channels.dilation == 1:
        taps = [columns]
    else:
        taps = sorted({columns, least, *(n for n in range(least, min(columns, 8)))}, reverse=True)
    for tap in taps:
        yield Packing(groups=channels.groups, taps=tap)
    if channels.groups == 1 or (not channels.packed and columns > _MOST_TAPS):
        return
    few = channels.groups <= _MOST_SEPARATE or channels.per_output > arch.columns
    if few and columns <= _MOST_TAPS:
        yield Packing(groups=1, taps=1, separate=True)
    most = min(channels.groups - 1, arch.columns // channels.per_output)
    counts = {most, *(1 << n for n in range(9)), *(n for n in range(1, 65) if most % n == 0)}
    for groups in sorted((n for n in counts if 0 < n <= most), reverse=True):
        for tap in range(least, min(columns, 16) + 1) if channels.packed else (1,):
            if tap <= least or groups * channels.per_group + (
                (tap - 1) * channels.dilation * channels.inputs
            ) <= arch.rows:
                yield Packing(groups=groups, taps=tap)


def cycles(channels: Channels, packing: Packing, arch: Arch) -> Fraction:
    """Estimated cycles of the array and of the requantization."""
    dense = packing.groups == channels.groups
    outputs = packing.groups * channels.per_output
    span = step_bytes(channels, packing)
    if dense or packing.separate:
        tiles = -(-outputs // arch.columns) * (1 if dense else channels.groups)
        width = min(outputs, arch.columns)
    else:
        tiles, width = -(-channels.groups // packing.groups), outputs
    turns = channels.kernel[0] * -(-channels.kernel[1] // packing.taps)
    steps = turns * -(-span // arch.rows)
    chunks = -(-channels.positions // arch.accumulator_bank_rows)
    positions = Fraction(channels.positions, chunks)
    tile_bytes = Fraction(turns * span * width, steps)
    tile = max(positions, Fraction(arch.rows), tile_bytes / arch.weight_port.bytes_per_cycle)
    requantize = channels.positions * tiles * arch.vector_slot_cycles
    return steps * tiles * chunks * tile + requantize
