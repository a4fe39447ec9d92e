"""What the decoder says of instructions that the table declares and the machine lacks."""

import dataclasses
from collections.abc import Iterator

import pytest

from systol_hw.arch import INSTRUCTION_BYTES, PRESETS
from systol_hw.isa import (
    OPERATION_BY_NAME,
    OPERATION_BY_OPCODE,
    Instruction,
    codec,
    decode,
    decode_fault,
    encode,
    instruction,
)
from systol_hw.isa.encoding import Field, Operation, check_table
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.faults import FaultCause, Unit

NANO = PRESETS["nano"]
_LEVEL = Field(
    name="level", lsb=32, width=4, maximum=9, supported_maximum=5, doc="as far as it is built"
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two operations more: 0x7e, of which a part is built, and 0x7f, of which nothing is."""
    nop = OPERATION_BY_NAME["nop"]
    partly = dataclasses.replace(nop, name="partly", opcode=0x7E, fields=(_LEVEL,))
    future = dataclasses.replace(nop, name="future", opcode=0x7F, supported=False)
    table = {**OPERATION_BY_OPCODE, 0x7E: partly, 0x7F: future}
    monkeypatch.setattr(codec, "OPERATION_BY_OPCODE", table)
    yield
    decode.cache_clear()


def _code(opcode: int, level: int = 0) -> bytes:
    return (opcode | level << 32).to_bytes(INSTRUCTION_BYTES, "little")


@pytest.mark.usefixtures("made_up")
def test_what_is_declared_and_not_built_is_unsupported() -> None:
    assert decode_fault(_code(0x7F), NANO) == (
        FaultCause.UNSUPPORTED, "future is not supported by this machine"
    )
    assert decode_fault(_code(0x7E, 5), NANO) is None
    assert decode_fault(_code(0x7E, 6), NANO) == (
        FaultCause.UNSUPPORTED, "partly: level = 6 is not supported"
    )
    # What is illegal is never called unsupported.
    for refused in (_code(0x7E, 10), _code(0x7F, 1), _code(0x7D)):
        fault = decode_fault(refused, NANO)
        assert fault is not None and fault[0] is FaultCause.ILLEGAL_INSTRUCTION


def test_nothing_that_the_table_declares_is_unsupported() -> None:
    for operation in OPERATIONS:
        for field in operation.fields:
            for value in (*field.bounds(NANO), field.default):
                item = Instruction(operation, {**instruction(operation).fields, field.name: value})
                fault = decode_fault(encode(item), NANO)
                assert fault is None or fault[0] is FaultCause.ILLEGAL_INSTRUCTION, operation.name


def test_equal_instructions_are_equal_however_they_were_made() -> None:
    item = instruction("read_host", run_bytes=7, memory_stride0=-3)
    again = decode(encode(item))
    assert again == item and hash(again) == hash(item)
    assert again.word == int.from_bytes(encode(item), "little")
    assert item != instruction("read_host", run_bytes=7)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_representation_of_an_instruction_makes_it_again(operation: Operation) -> None:
    for value in (0, 1):
        made = Instruction(operation, {name: value for name in operation.defaults})
        assert eval(repr(made), {"instruction": instruction}) == made


def test_fields_of_few_values_name_all_that_they_take() -> None:
    copy = OPERATION_BY_NAME["copy"].field("reduce")
    assert [value.name for value in copy.choices] == ["MAX", "SUM"]
    named = dataclasses.replace(copy, lsb=32, maximum=None)
    operation = Operation(
        name="odd", opcode=0x7F, unit=Unit.CONTROL, fields=(named,), tpu_v1="none", doc=""
    )
    with pytest.raises(ValueError, match=r"odd\.reduce takes values without a name"):
        check_table([operation])
