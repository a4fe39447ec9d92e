"""The state of the reference executor, and what all its operations need: addresses and wrapping."""

from dataclasses import dataclass, field

import numpy as np

from systol_hw.arch import Arch
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit

AMOUNT = {(amount.unit, amount.name): index for index, amount in enumerate(AMOUNTS)}
"""Row of each amount."""


class AddressFault(Exception):
    """An access is out of range; the run ends."""


class NoTile(Exception):
    """A matrix instruction finds the weight FIFO empty."""


@dataclass(kw_only=True, eq=False)
class Machine:
    """Memories and sums of a run; one instruction after another changes them.

    Parameters
    ----------
    arch
    ub, weight, windows
        uint8 each.
    accumulators
        int64 (accumulator_rows, columns), each in the 32-bit range.
    tiles
        The weight FIFO: int8 (rows, columns) each, with its number of live columns.
    tag
        The present debug tag.
    interrupts
        Values of `interrupt` and `sync_host` so far.
    status
        The status word.
    amounts
        int64 (len(AMOUNTS), TAGS).
    """

    arch: Arch
    ub: np.ndarray
    accumulators: np.ndarray
    weight: np.ndarray
    windows: list[np.ndarray]
    tiles: list[tuple[np.ndarray, int]] = field(default_factory=list)
    tag: int = 0
    interrupts: list[int] = field(default_factory=list)
    status: int = 0
    amounts: np.ndarray

    def count(self, unit: Unit, name: str, value: int) -> None:
        """Add `value` to an amount under the present tag."""
        self.amounts[AMOUNT[unit, name], self.tag] += value


def addresses(values: np.ndarray | int, size: int) -> np.ndarray:
    """`values` modulo 2**32, all of them less than `size`; raises `AddressFault` otherwise."""
    wrapped = np.asarray(values, np.int64) % (1 << 32)
    if wrapped.size and int(wrapped.max()) >= size:
        raise AddressFault
    return wrapped


def index(count: int, axis: int, axes: int) -> np.ndarray:
    """0 .. count-1 along `axis` of `axes`: int64."""
    shape = [1] * axes
    shape[axis] = count
    return np.arange(count, dtype=np.int64).reshape(shape)


def wrap32(values: np.ndarray) -> np.ndarray:
    """`values` as signed 32-bit numbers, in int64."""
    return (values + (1 << 31)) % (1 << 32) - (1 << 31)


def signed(values: np.ndarray) -> np.ndarray:
    """Bytes (uint8) as signed numbers, in int64."""
    return values.astype(np.int8).astype(np.int64)
