"""From 512 instruction bits to what control must know; all from the table."""

from typing import Any

from amaranth.hdl import Cat, Const, Module
from amaranth.lib.wiring import Component, In, Out

from systol_hw.arch import Arch
from systol_hw.isa.encoding import Field, Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS, UNIT_BITS

__all__ = ["Decoder"]


class Decoder(Component):
    """What control does with an instruction; equal to `isa.decode_fault`. Combinational.

    Parameters
    ----------
    arch : Arch
        Some fields' ranges depend on it.

    Members
    -------
    word : In(512)
    illegal : Out(1)
        Fault ILLEGAL_INSTRUCTION: unknown opcode, reserved bits set or a field out of range.
    unsupported : Out(1)
        Fault UNSUPPORTED; never together with `illegal`.
    unit : Out(3)
        The unit that executes it; undefined with `illegal`.
    opcode : Out(8)
    """

    word: In(INSTRUCTION_BITS)
    illegal: Out(1)
    unsupported: Out(1)
    unit: Out(UNIT_BITS)
    opcode: Out(8)

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += self.opcode.eq(self.word[:8])
        with m.Switch(self.opcode):
            for operation in OPERATIONS:
                with m.Case(operation.opcode):
                    illegal = Cat(self._illegal(operation)).any()
                    unsupported = Cat(self._unsupported(operation)).any()
                    m.d.comb += [
                        self.unit.eq(operation.unit),
                        self.illegal.eq(illegal),
                        self.unsupported.eq(~illegal & unsupported),
                    ]
            with m.Default():
                m.d.comb += self.illegal.eq(1)
        return m

    def _illegal(self, operation: Operation) -> list[Any]:
        """Conditions under which the instruction is illegal."""
        reserved = [
            self.word[bit] for bit in range(INSTRUCTION_BITS) if not operation.used_bits >> bit & 1
        ]
        conditions = [Cat(reserved).any()]
        fields = fields_of(self.word, operation)
        for field in operation.fields:
            conditions += _outside(field, fields[field.name], self.arch)
        return conditions

    def _unsupported(self, operation: Operation) -> list[Any]:
        """Conditions under which a legal instruction is not supported."""
        if not operation.supported:
            return [Const(1, 1)]
        fields = fields_of(self.word, operation)
        return [
            fields[field.name] > field.supported_maximum
            for field in operation.fields
            if field.supported_maximum is not None
        ]


def _outside(field: Field, value: Any, arch: Arch) -> list[Any]:
    """Conditions under which `value` is not a legal value of `field`; none that cannot hold."""
    low, high = field.bounds(arch)
    shape = value.shape()
    least = -(1 << (shape.width - 1)) if shape.signed else 0
    greatest = (1 << (shape.width - shape.signed)) - 1
    conditions = []
    if low > least:
        # A comparison with zero is cheaper than one with one.
        conditions.append(~value.any() if low == 1 and not shape.signed else value < low)
    if high < greatest:
        conditions.append(value > high)
    if field.forbidden_bits:
        conditions.append((value & field.forbidden_bits).any())
    return conditions
