"""What an instruction makes of the vector lanes: constants that hold still while it is active.

Ref: docs/numerics.md, 3 to 5. All operations are one computation with other constants::

    requantize  v + bias, times multiplier
    copy        v, times 1
    fill        as copy; the zero point is the offset of an operand that is never read
    binary      a and b, each with its offset: a*ma + b*mb, or the greater or lesser, or (a*b)*ma
    table       u, which is A with an offset, looked up: difference*fraction + knot*256

all shifted, rounded and clipped in the same way.
"""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.isa.choices import Function, Reduce, ResultWidth
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS

__all__ = [
    "MULTIPLIER_BITS",
    "OPERAND_BITS",
    "SHIFT_BITS",
    "ModeRegister",
    "VectorMode",
    "is_operation",
]

MULTIPLIER_BITS = 18
SHIFT_BITS = 6
OPERAND_BITS = 17
"""Signed bits of an operand of 16 bits less a zero point, or moved to 0..65535."""

_KNOT_SCALE = 256
_TO_UNSIGNED = 1 << 15
_WIDEST = 32639
"""Greatest number of two balanced bytes that both signs have (docs/numerics.md, 1)."""


def is_operation(fields: Any, *names: str) -> Any:
    """1 if the opcode of the instruction `fields` is that of one of the operations `names`."""
    chosen: Any = Const(0, 1)
    for name in names:
        chosen = chosen | (fields.opcode == OPERATION_BY_NAME[name].opcode)
    return chosen


class VectorMode(data.Struct):
    """The constants of an instruction.

    `pair`: the result is formed of two products, each of its own; else one long product is made
    in two halves. `wide`: 16-bit results, `raw`: 32-bit ones; else bytes. `counted`: saturations
    are. `narrow_table`: of bytes. `channel_parameters`, `mean`: multipliers, shifts and biases
    come from the unified buffer, and are zero here.
    """

    channel_parameters: 1
    mean: 1
    sum: 1
    binary: 1
    table: 1
    narrow_table: 1
    multiply: 1
    pair: 1
    minimum: 1
    maximum: 1
    wide: 1
    raw: 1
    counted: 1
    a_offset: signed(OPERAND_BITS)
    b_offset: signed(9)
    multiplier_a: signed(MULTIPLIER_BITS)
    multiplier_b: signed(MULTIPLIER_BITS)
    shift: SHIFT_BITS
    zero_point: signed(8)
    low: signed(16)
    high: signed(16)


class ModeRegister(Component):
    """Decodes an instruction as it starts.

    Members
    -------
    start : In(1), word : In(512)
    mode : Out(VectorMode)
        From the cycle after `start` on.
    """

    start: In(1)
    word: In(INSTRUCTION_BITS)
    mode: Out(VectorMode)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        window = fields_of(self.word, "requantize")
        binary = fields_of(self.word, "binary")
        table = fields_of(self.word, "table")
        is_requantize, is_fill = is_operation(window, "requantize"), is_operation(window, "fill")
        is_binary, is_table = is_operation(window, "binary"), is_operation(window, "table")

        new = Signal(VectorMode)
        mean = is_requantize & (window.reduce == Reduce.MEAN)
        product = is_binary & (binary.function == Function.MUL)
        m.d.comb += [
            new.channel_parameters.eq(is_requantize & ~mean),
            new.mean.eq(mean),
            new.sum.eq((window.reduce == Reduce.SUM) | (window.reduce == Reduce.MEAN)),
            new.binary.eq(is_binary),
            new.table.eq(is_table),
            new.narrow_table.eq(is_table & ~table.table_width),
            new.multiply.eq(product),
            new.pair.eq(is_table | (is_binary & ~product)),
            new.minimum.eq(is_binary & (binary.function == Function.MIN)),
            new.maximum.eq(is_binary & (binary.function == Function.MAX)),
            new.wide.eq(window.width == ResultWidth.WIDE),
            new.raw.eq(window.width == ResultWidth.RAW),
            new.counted.eq(is_requantize | is_binary | is_table),
            new.low.eq(self._clip(m, window, is_fill, "low")),
            new.high.eq(self._clip(m, window, is_fill, "high")),
        ]
        with m.If(is_requantize):
            m.d.comb += new.zero_point.eq(window.zero_point)
        with m.Elif(is_binary):
            m.d.comb += [
                new.a_offset.eq(-binary.a_zero_point),
                new.b_offset.eq(-binary.b_zero_point),
                new.multiplier_a.eq(binary.a_multiplier),
                new.multiplier_b.eq(Mux(product, binary.a_multiplier, binary.b_multiplier)),
                new.shift.eq(binary.shift),
                new.zero_point.eq(window.zero_point),
            ]
        with m.Elif(is_table):
            m.d.comb += [
                new.a_offset.eq(_TO_UNSIGNED),
                new.multiplier_b.eq(_KNOT_SCALE),
                new.shift.eq(table.shift),
                new.zero_point.eq(window.zero_point),
            ]
        with m.Else():
            m.d.comb += [
                new.a_offset.eq(Mux(is_fill, window.zero_point, 0)),
                new.multiplier_a.eq(1),
                new.multiplier_b.eq(1),
            ]
        with m.If(self.start):
            m.d.sync += self.mode.eq(new)
        return m

    def _clip(self, m: Module, fields: Any, fill: Any, name: str) -> Any:
        """The clip `name` limited to what the output holds; clipping comes behind saturation.

        min(max(q, low), high) with low > high is high, whatever q is.
        """
        greatest = Mux(fields.width == ResultWidth.WIDE, _WIDEST, 127)
        least = Mux(fields.width == ResultWidth.WIDE, -_WIDEST, -128)
        given = fields.high if name == "high" else Mux(
            fields.low > fields.high, fields.high, fields.low
        )
        clip = Signal(signed(16), name=name)
        with m.If(fill):
            m.d.comb += clip.eq(greatest if name == "high" else least)
        with m.Elif(given > greatest):
            m.d.comb += clip.eq(greatest)
        with m.Elif(given < least):
            m.d.comb += clip.eq(least)
        with m.Else():
            m.d.comb += clip.eq(given)
        return clip
