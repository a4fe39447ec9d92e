"""Instruction words as the units see them: fields by name, from the table of operations."""

from typing import Any

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.isa.encoding import Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS
from systol_hw.tables.faults import Unit

__all__ = ["fields_of", "operation_layout", "unit_word_bits"]


def operation_layout(operation: str | Operation) -> data.FlexibleLayout:
    """The 512 bits of an instruction as a layout: its fields with their signs, and `opcode`."""
    if isinstance(operation, str):
        operation = OPERATION_BY_NAME[operation]
    members = {"opcode": data.Field(unsigned(8), 0)}
    for field in operation.fields:
        shape = signed(field.width) if field.signed else unsigned(field.width)
        members[field.name] = data.Field(shape, field.lsb)
    return data.FlexibleLayout(INSTRUCTION_BITS, members)


def fields_of(word: Any, operation: str | Operation) -> data.View:
    """A view of the 512-bit value `word` through the fields of `operation`."""
    return data.View(operation_layout(operation), word)


def unit_word_bits(unit: Unit) -> int:
    """Low bits of the word that any supported instruction of `unit` uses; the others are zero."""
    return max(o.used_bits.bit_length() for o in OPERATIONS if o.unit is unit and o.supported)
