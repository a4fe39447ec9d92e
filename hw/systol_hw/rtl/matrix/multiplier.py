"""Two signed 8x8 products for a pair of columns, and how their sums become column sums.

Columns 2j and 2j+1 of the array see the same activation, so they can share one 18x18 multiplier.
Two recipes give the same column sums with the same timing:

* `PlainPair` makes two independent products (two multipliers on an FPGA).
* `PackedPair` makes both in one signed 8x18 product, which fits one DSP block.

A recipe is written once and evaluated both on Amaranth values, where it becomes gates, and on
Python integers or numpy integer arrays, where it is the model that tests check exhaustively.

The packed recipe, for an activation `a` and weights `w0` (even column) and `w1` (odd column)::

    multiplier operand  B = w0 * 2**10 + (w1 + 128)       18 bits signed, no adder: a concatenation
    product             P = a * B = a*w0 * 2**10 + low    low = a * (w1 + 128), 16 bits signed
    split               q = P >> 10, f = P mod 2**10, c = low >> 10, so that low = c * 2**10 + f
    even product        a*w0 = q - c
    odd product         a*w1 = c * 2**10 + f - 128 * a

`w1` is offset to unsigned because `w0 * 2**10 + w1` leaves 18 bits at w0 = -128, w1 < 0.
The two products overlap in 6 bits; `c` is found from `t = a*w0 mod 64`, made in lookup tables:
`c = (P[10:16] - t) mod 64`, signed. Everything after that is linear, so the array does not
separate the products at all: it sums `q`, `f` and `c` down the rows and separates the *sums* once,
below the last row, where also 128 times the sum of the row's activations is taken off.
"""

from collections.abc import Callable, Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Shape, Value, signed, unsigned

__all__ = ["PackedPair", "PlainPair", "recipe", "truncated_product"]

_LOW_BITS = 10
"""Position of the even column's weight in the packed operand: 18 bits less the weight's 8."""

_OVERLAP_BITS = 6
"""Bits in which the packed products overlap: the 16 of a product less `_LOW_BITS`."""

_WEIGHT_OFFSET_BITS = 7
"""The odd column's weight is offset by 2**7, which makes it an unsigned byte."""


def _bits(value: Any, start: int, stop: int) -> Any:
    """Bits `start` (inclusive) to `stop` (exclusive), unsigned."""
    if isinstance(value, Value):
        return value[start:stop]
    return (value >> start) & ((1 << (stop - start)) - 1)


def _signed(value: Any, width: int) -> Any:
    """The low `width` bits, as a signed number."""
    if isinstance(value, Value):
        return value[:width].as_signed()
    sign = 1 << (width - 1)
    return ((value & ((1 << width) - 1)) ^ sign) - sign


def _join(*parts: tuple[Any, int]) -> Any:
    """Unsigned concatenation of `(value, width)` parts, least significant first."""
    if any(isinstance(value, Value) for value, _ in parts):
        return Cat(*(v if isinstance(v, Value) else Const(v, width) for v, width in parts))
    total, position = 0, 0
    for value, width in parts:
        total = total | (value << position)
        position += width
    return total


def _as_is(value: Any) -> Any:
    return value


def truncated_product(
    a: Sequence[Any], b: Sequence[Any], keep: Callable[[Any], Any] = _as_is
) -> list[Any]:
    """Low `len(a)` bits of `a * b`, operands and result as bit planes, least significant first.

    A plane holds one bit of each of many numbers, so that one pass over the gates multiplies them
    all: elaboration and simulation then handle a row of the array at once.

    It is a carry-save tree of gates and has no `*` or `+`: synthesis would put a small product
    into a whole DSP block and small adders into carry chains, which cost more lookup tables.

    `keep` gets each gate's output and returns what stands for it from then on. For Amaranth it
    must make a signal: Amaranth emits an expression anew wherever it is used, and in this tree the
    copies would multiply.
    """
    width = len(a)
    columns = [[keep(a[i] & b[k - i]) for i in range(k + 1)] for k in range(width)]
    for k, column in enumerate(columns):
        keeps_carry = k + 1 < width
        while len(column) > 1:
            x, y = column.pop(0), column.pop(0)
            if column:
                z = column.pop(0)
                half = keep(x ^ y)
                column.append(keep(half ^ z))
                if keeps_carry:
                    columns[k + 1].append(keep((x & y) | (z & half)))
            else:
                column.append(keep(x ^ y))
                if keeps_carry:
                    columns[k + 1].append(keep(x & y))
    return [column[0] for column in columns]


def _planes(values: Sequence[Any], width: int) -> list[Any]:
    """The low `width` bits of `values` as bit planes; `values` and `width` change roles back."""
    return [_join(*((_bits(value, i, i + 1), 1) for value in values)) for i in range(width)]


class PlainPair:
    """Two independent 8x8 products; the array sums each down its column.

    Attributes
    ----------
    products : tuple of Shape
        What is registered behind the multiplier.
    terms : tuple of Shape
        What each row adds to the running sums, one entry for each running sum.
    needs_activation_sum : bool
        Whether `columns` needs the sum of the row vector's activations.
    """

    products: tuple[Shape, ...] = (signed(16), signed(16))
    terms: tuple[Shape, ...] = (signed(16), signed(16))
    needs_activation_sum = False

    @staticmethod
    def multiply(
        activations: Sequence[Any],
        evens: Sequence[Any],
        odds: Sequence[Any],
        keep: Callable[[Any], Any] = _as_is,
    ) -> list[tuple[Any, ...]]:
        """Values to register for each pair of a row, in the order of `products`.

        The three sequences have one signed 8-bit entry per pair: the activation, the even and the
        odd column's weight. `keep` is that of `truncated_product`.
        """
        operands = zip(activations, evens, odds, strict=True)
        return [(a * w0, a * w1) for a, w0, w1 in operands]

    @staticmethod
    def split(*products: Any) -> tuple[Any, ...]:
        """What one row adds to each running sum, from the registered products."""
        return products

    @staticmethod
    def columns(sums: tuple[Any, ...], activations: Any) -> tuple[Any, Any]:
        """Even and odd column sums from the running sums and the sum of the activations.

        They are exact modulo 2**(width of a column sum).
        """
        even, odd = sums
        return even, odd


class PackedPair:
    """Both products from one 8x18 multiplication (see the module's docstring).

    The attributes and functions are those of `PlainPair`.
    """

    products: tuple[Shape, ...] = (signed(26), unsigned(_OVERLAP_BITS))
    terms: tuple[Shape, ...] = (signed(16), unsigned(_LOW_BITS), signed(_OVERLAP_BITS))
    needs_activation_sum = True

    @staticmethod
    def multiply(
        activations: Sequence[Any],
        evens: Sequence[Any],
        odds: Sequence[Any],
        keep: Callable[[Any], Any] = _as_is,
    ) -> list[tuple[Any, ...]]:
        # w1 + 128 as an unsigned byte is w1 with its sign bit inverted.
        packed = [
            _join(
                (_bits(w1, 0, 7), 7),
                (_bits(w1, 7, 8) ^ 1, 1),
                (0, _LOW_BITS - 8),
                (_bits(w0, 0, 8), 8),
            )
            for w0, w1 in zip(evens, odds, strict=True)
        ]
        low_planes = truncated_product(
            [keep(plane) for plane in _planes(activations, _OVERLAP_BITS)],
            [keep(plane) for plane in _planes(evens, _OVERLAP_BITS)],
            keep,
        )
        lows = _planes(low_planes, len(packed))
        operands = zip(activations, packed, lows, strict=True)
        return [(a * _signed(weights, 18), low) for a, weights, low in operands]

    @staticmethod
    def split(*products: Any) -> tuple[Any, ...]:
        product, even_low = products
        overlap = _bits(product, _LOW_BITS, 16)
        return (
            _signed(_bits(product, _LOW_BITS, 26), 16),
            _bits(product, 0, _LOW_BITS),
            _signed(overlap - even_low, _OVERLAP_BITS),
        )

    @staticmethod
    def columns(sums: tuple[Any, ...], activations: Any) -> tuple[Any, Any]:
        high, low, carry = sums
        return high - carry, (carry << _LOW_BITS) + (low - (activations << _WEIGHT_OFFSET_BITS))


def recipe(*, packed: bool) -> type[PlainPair] | type[PackedPair]:
    """The recipe of a column pair: `PackedPair` or `PlainPair`."""
    return PackedPair if packed else PlainPair
