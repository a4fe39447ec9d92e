"""How many bits the inner tensors of an LRN need, by what their rounding does to the result.

A byte less of a tensor is a turn of the vector unit less over all elements, and a 16-bit operand of
the array takes two passes. So the errors of each choice are carried on to the result, at the worst:
the squares' through their sum, the sums' through the slope of the power, the factor's by the
operand that it multiplies.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from systol_compiler.numbers.limits import INT16_LIMIT

LARGEST_ERROR = 0.6
"""Steps of the result that a choice may be off by at the worst, before the result is rounded."""
_MARGIN = 1 + 2**-20
"""So that a scale that is rounded to binary32 still holds the greatest value."""
_KNOTS = 256
"""16-bit codes from knot to knot of a table."""
_KNOT_ERROR = 1 / 32
"""Steps of an 8-bit result that rounded knots add to it."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Bits of the squares, of their sums, and of the factor."""

    squares: int
    sums: int
    factor: int

    @property
    def turns(self) -> int:
        """Of the vector unit over all elements."""
        table = self.sums // 8 + self.factor // 8 - 1
        return self.squares // 8 + self.sums // 8 + table + self.factor // 8


@dataclass(frozen=True, kw_only=True)
class Response:
    """x * (bias + share * sum of up to `most` squares, x's own among them) ** -beta.

    Attributes
    ----------
    bias, share, beta
        Positive.
    most
        Squares of the largest sum.
    largest
        Greatest magnitude of x.
    step
        Of the result.
    """

    bias: float
    share: float
    beta: float
    most: int
    largest: float
    step: float

    @property
    def greatest(self) -> float:
        """The greatest share of a sum."""
        return self.share * self.most * self.largest**2

    @property
    def factors(self) -> tuple[float, float]:
        """The least and the greatest factor."""
        least = float(np.power(self.bias + self.greatest, -self.beta))
        return least, float(np.power(self.bias, -self.beta))

    @property
    def constant(self) -> bool:
        """Whether the factor varies so little that its middle serves for all."""
        least, greatest = self.factors
        return (greatest - least) * self.largest <= LARGEST_ERROR * self.step

    def square_step(self, width: int) -> float:
        """Scale of squares of `width` bits; zero point -128 or 0."""
        return self.largest**2 / (255 if width == 8 else INT16_LIMIT) * _MARGIN

    def sum_step(self, width: int) -> float:
        """Scale of shares of sums: from 0 in 8 bits, on both sides of their middle in 16."""
        return self.greatest / (255 if width == 8 else 2 * INT16_LIMIT) * _MARGIN

    def factor_step(self, width: int) -> float:
        """Scale of factors of `width` bits; zero point -128 or 0. Knots may be a little above the
        greatest factor."""
        return self.factors[1] * (_MARGIN / 255 if width == 8 else 1.05 / INT16_LIMIT)

    def error(self, widths: Widths) -> float:
        """Steps of the result that it can be off by before it is rounded, sums in one table."""
        x = np.linspace(0, self.largest, 256)
        off = self.most * self.share * self.square_step(widths.squares) / 2
        off += self.sum_step(widths.sums) / 2
        wide = widths.sums == 16
        with np.errstate(all="ignore"):
            # The power is steepest where the sum is least: where all other channels are 0.
            least = self.bias + np.maximum(self.share * x**2 - off, 0)
            factor = self.beta * least ** (-self.beta - 1) * off
            if wide:
                apart = _KNOTS * self.sum_step(16)
                bent = self.beta * (self.beta + 1) * (least - apart) ** (-self.beta - 2)
                factor += np.where(least > apart, bent, np.inf) * apart**2 / 8
            rounded = 1.0 if widths.factor == 16 else 0.5 + _KNOT_ERROR * wide
            factor += rounded * self.factor_step(widths.factor)
            return float((x[1:] * factor[1:]).max() / self.step)

    def widths(self, operand: int) -> Widths | None:
        """The cheapest widths that are good enough for an operand of `operand` bits; of equals the
        most precise ones. None if one table cannot do."""
        bits = (8, 16)
        choices = [
            Widths(squares=squares, sums=sums, factor=factor)
            for squares, sums, factor in product(bits, bits, bits)
            if squares >= operand
        ]
        good = [choice for choice in choices if self.error(choice) <= LARGEST_ERROR]
        return min(good, key=lambda w: (w.turns, self.error(w)), default=None)
