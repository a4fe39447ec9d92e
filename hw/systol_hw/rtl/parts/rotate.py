"""Barrel rotators of bytes: one row of multiplexers for each bit of the amount."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.utils import ceil_log2

__all__ = ["rotate_left", "rotate_right"]


def rotate_right(m: Module, word: Any, amount: Any, name: str) -> Any:
    """Byte j of the result is byte (j + `amount`) % n of `word`; n is a power of two."""
    for stage in range(ceil_log2(len(word) // 8)):
        bits = 8 << stage
        turned = Signal(len(word), name=f"{name}_{stage}")
        m.d.comb += turned.eq(Mux(amount[stage], Cat(word[bits:], word[:bits]), word))
        word = turned
    return word


def rotate_left(m: Module, word: Any, amount: Any, name: str, *, unit_bits: int = 8) -> Any:
    """Byte j of the result is byte (j - `amount`) % n of `word`; n is a power of two.

    `unit_bits`: bits of what stands for a byte.
    """
    for stage in range(ceil_log2(len(word) // unit_bits)):
        bits = unit_bits << stage
        turned = Signal(len(word), name=f"{name}_{stage}")
        m.d.comb += turned.eq(Mux(amount[stage], Cat(word[-bits:], word[:-bits]), word))
        word = turned
    return word
