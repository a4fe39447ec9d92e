"""The instruction set: its table, what encodes and decodes by it, and its text form.

What most need is here; `systol_hw.isa.operations` is the table itself.
"""

from systol_hw.isa.codec import (
    OPERATION_BY_NAME,
    OPERATION_BY_OPCODE,
    Instruction,
    decode,
    decode_fault,
    encode,
    encode_program,
    instruction,
    mask_of_units,
    units_of_mask,
)

__all__ = [
    "OPERATION_BY_NAME",
    "OPERATION_BY_OPCODE",
    "Instruction",
    "decode",
    "decode_fault",
    "encode",
    "encode_program",
    "instruction",
    "mask_of_units",
    "units_of_mask",
]
