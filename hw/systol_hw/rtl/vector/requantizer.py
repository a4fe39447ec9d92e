"""One vector lane from a reduced value to a byte of its result: multiply, shift, round, clip."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.parts.convert_once import converted_once
from systol_hw.rtl.vector.mode import MULTIPLIER_BITS, OPERAND_BITS, SHIFT_BITS, VectorMode
from systol_hw.rtl.vector.operand_hold import VALUE_BITS

__all__ = ["REQUANTIZE_CYCLES", "Requantizer"]

REQUANTIZE_CYCLES = 5
"""Cycles from `Requantizer.value` to `result`."""

_LOW_BITS = 17
"""Bits of the lower half of a value: unsigned, it is an operand of a signed 18x18 multiplier."""
_PRODUCT_BITS = 32 + MULTIPLIER_BITS
_QUOTIENT_BITS = 17
"""Signed bits of a rounded quotient that the zero point can still bring into -32639..32639."""


class Requantizer(Component):
    """One lane, a value a cycle: `clip(saturate(round_half_even(r / 2**shift) + zero_point))`.

    `bias` and the knots come with `value`, the multipliers one cycle and `shift` three cycles
    behind it, `high_plane` with the result, so that a user can select them stage by stage. `r` is
    one of

    * `(v + bias) * multiplier_a`, v the signed low 32 bits of `value` (both multipliers equal);
    * `a * b * multiplier_a`, a and b the signed halves of `value` (`multiply`; both equal, bias 0);
    * `a * multiplier_a + b * multiplier_b`, their `minimum` or `maximum` (`pair`, bias 0);
    * `difference * fraction + knot * multiplier_b` (`table`, with multiplier_a 0).

    Members
    -------
    mode : In(VectorMode)
        Constant while values are under way; `low` <= `high`. In a `raw` one the quotient is not
        rounded and its low byte is the result.
    value : In(VALUE_BITS), bias : In(signed(32))
    knot : In(signed(16)), difference : In(signed(17)), fraction : In(8)
    multiplier_a, multiplier_b : In(signed(18)), shift : In(6)
    high_plane : In(1)
        The result is the high byte of two.
    wrapped : Out(1)
        `v + bias` left 32 bits and wrapped; one cycle behind `value`.
    result : Out(8), saturated : Out(1)
        `REQUANTIZE_CYCLES` behind `value`; `saturated` if the result left -128..127, or
        -32639..32639 if `wide`, before the clip.
    """

    mode: In(VectorMode)
    value: In(VALUE_BITS)
    bias: In(signed(32))
    knot: In(signed(16))
    difference: In(signed(17))
    fraction: In(8)
    multiplier_a: In(signed(MULTIPLIER_BITS))
    multiplier_b: In(signed(MULTIPLIER_BITS))
    shift: In(SHIFT_BITS)
    high_plane: In(1)
    wrapped: Out(1)
    result: Out(8)
    saturated: Out(1)

    @converted_once()
    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lower, upper = self._factors(m)
        product = self._products(m, lower, upper)
        self._round(m, product)
        return m

    def _factors(self, m: Module) -> tuple[Any, Any]:
        """What the two multipliers take: halves of one number, or two numbers."""
        mode = self.mode
        total = Signal(signed(33))
        a, b = Signal(signed(OPERAND_BITS)), Signal(signed(OPERAND_BITS))
        product = Signal(signed(2 * OPERAND_BITS))
        lower = Signal(signed(_LOW_BITS + 1), reset_less=True)
        upper = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d.comb += [
            total.eq(self.value[:32].as_signed() + self.bias),
            Cat(a, b).eq(self.value),
            product.eq(a * b),
        ]
        m.d.sync += self.wrapped.eq(total[32] ^ total[31])
        with m.If(mode.table):
            m.d.sync += [lower.eq(self.difference), upper.eq(self.knot)]
        with m.Elif(mode.multiply):
            m.d.sync += [
                lower.eq(product[:_LOW_BITS]),
                upper.eq(product[_LOW_BITS:32].as_signed()),
            ]
        with m.Else():
            # Without a bias the sum is the value as it stands: a below b.
            top = Mux(mode.pair, b[-2:], total[31].replicate(2))
            m.d.sync += [
                lower.eq(Cat(total[:_LOW_BITS], mode.pair & a[-1])),
                upper.eq(Cat(total[_LOW_BITS:32], top)),
            ]
        return lower, upper

    def _products(self, m: Module, lower: Any, upper: Any) -> Any:
        """Two products of at most 18x18 bits, one DSP block each, and what they make together."""
        mode = self.mode
        fraction = Signal(8, reset_less=True)
        low = Signal(signed(_LOW_BITS + 1 + MULTIPLIER_BITS), reset_less=True)
        high = Signal(signed(OPERAND_BITS + MULTIPLIER_BITS), reset_less=True)
        multiplier = Signal(signed(MULTIPLIER_BITS))
        m.d.comb += multiplier.eq(self.multiplier_a | fraction)
        m.d.sync += [
            fraction.eq(Mux(mode.table, self.fraction, 0)),
            low.eq(lower * multiplier),
            high.eq(upper * self.multiplier_b),
        ]
        less, drop_low, drop_high = Signal(), Signal(), Signal()
        high_term = Signal(signed(_PRODUCT_BITS))
        product = Signal(signed(_PRODUCT_BITS), reset_less=True)
        m.d.comb += [
            less.eq(low < high),
            drop_low.eq(Mux(less, mode.maximum, mode.minimum)),
            drop_high.eq(Mux(less, mode.minimum, mode.maximum)),
            high_term.eq(
                Mux(mode.pair, Mux(drop_high, 0, high), (high << _LOW_BITS)[:_PRODUCT_BITS])
            ),
        ]
        m.d.sync += product.eq(high_term + Mux(drop_low, 0, low))
        return product

    def _round(self, m: Module, product: Any) -> None:
        mode = self.mode
        # One bit for rounding stands below the product's; `sticky` is whether anything below that
        # was not zero. The shifter narrows as it goes: bits above what the smaller shifts to come
        # can still bring into the quotient only say `large`.
        window: Any = Cat(Const(0, 1), product).as_signed()
        window, large, sticky = self._shift(window, Const(0), Const(0), (5, 4, 3), self.shift)
        coarse = Signal(signed(len(window)), reset_less=True)
        coarse_large, coarse_sticky, negative = Signal(), Signal(), Signal()
        fine_shift = Signal(3, reset_less=True)
        m.d.sync += [
            coarse.eq(window),
            coarse_large.eq(large),
            coarse_sticky.eq(sticky),
            negative.eq(product[-1]),
            fine_shift.eq(self.shift[:3]),
        ]
        window, large, sticky = self._shift(
            coarse, coarse_large, coarse_sticky, (2, 1, 0), fine_shift
        )
        quotient = Signal(signed(_QUOTIENT_BITS))
        round_up = Signal()
        shifted = Signal(signed(_QUOTIENT_BITS + 2))
        m.d.comb += [
            quotient.eq(window[1:]),
            round_up.eq(window[0] & (sticky | quotient[0]) & ~mode.raw),
            # Rounding is the carry into the addition of the zero point.
            shifted.eq(
                (Cat(1, quotient).as_signed() + Cat(round_up, mode.zero_point).as_signed()) >> 1
            ),
        ]
        byte_fits = shifted[7:].all() | ~shifted[7:].any()
        # Comparisons with 32639 = 0x7F7F and with its negative, in gates: less than two adders.
        above = shifted[15:].any() | shifted[7:15].all()
        below = ~shifted[15:].all() | ~(shifted[8:15].any() | (shifted[7] & shifted[:7].any()))
        wide_fits = ~Mux(shifted[-1], below, above)
        m.d.sync += self.saturated.eq(large | ~Mux(mode.wide, wide_fits, byte_fits))
        clipped = Signal(signed(16))
        with m.If(mode.raw):
            m.d.sync += clipped.eq(shifted)
        with m.Elif(Mux(large, negative, shifted < mode.low)):
            m.d.sync += clipped.eq(mode.low)
        with m.Elif(large | (shifted > mode.high)):
            m.d.sync += clipped.eq(mode.high)
        with m.Else():
            m.d.sync += clipped.eq(shifted)
        # Two balanced bytes: the low one is signed and borrows from the high one.
        m.d.comb += self.result.eq(
            Mux(self.high_plane, clipped[8:] + clipped[7], clipped[:8])
        )

    def _shift(
        self, window: Any, large: Any, sticky: Any, levels: tuple[int, ...], shift: Any
    ) -> tuple[Any, Any, Any]:
        """Shift right by the chosen bits of `shift`, largest first."""
        for level in levels:
            step = 1 << level
            # The smaller shifts to come drop step - 1 bits at the most.
            width = _QUOTIENT_BITS + 1 + step - 1
            chosen = shift[level]
            top = window[width - 1 :]
            large = large | (~chosen & top.any() & ~top.all())
            sticky = sticky | (chosen & window[:step].any())
            window = Mux(chosen, window >> step, window)[:width].as_signed()
        return window, large, sticky
