"""Whether bytes lie in a buffer, as cheaply as the check of every access needs it."""

from typing import Any

from amaranth.utils import bits_for

__all__ = ["outside"]


def outside(address: Any, length: Any, size: int) -> Any:
    """1 if any of the `length` bytes from the 32-bit `address` on is at `size` or beyond.

    The bits of `address` that no byte of the buffer needs are only compared with zero, so the
    addition is no wider than the buffer's addresses.
    """
    bits = bits_for(size - 1)
    return address[bits:].any() | (address[:bits] + length > size)
