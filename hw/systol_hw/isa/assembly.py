"""Assembler and disassembler, both driven by the instruction table.

One instruction a line: the operation's name, then `field=value` pairs in any order. Fields that are
left out take their defaults, and the disassembler leaves out what has its default. Token masks are
lists of units. A comment runs from `;` to the end of the line::

    read_weights signal=matrix address=0x400 row_pitch=16 k_last=16 n_last=10   ; layer fc1
    matmul wait=load,vector signal=vector ub_address=0x80 x_count=4 k_last=16

`.word 0x...` states the 512 bits of an instruction as one number (its first byte lowest), for words
that do not decode.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES
from systol_hw.errors import InputError, InvalidProgramError
from systol_hw.isa.codec import (
    OPERATION_BY_NAME,
    Instruction,
    decode,
    encode,
    instruction,
    mask_of_units,
    units_of_mask,
)
from systol_hw.isa.encoding import Field, Operation
from systol_hw.shown import shown
from systol_hw.tables.faults import Unit

_UNITS = {unit.name.lower(): unit for unit in Unit if unit is not Unit.CONTROL}
_MASKS = ("wait", "signal")
_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|[0-9]+)\Z")
_MAX_NUMBER_CHARACTERS = 200
"""More than any field or `.word` needs; refuses a number that takes long to convert."""
_MAX_COMPARED_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Word:
    """A piece of a line without blanks, and where it stands (both counted from 1)."""

    text: str
    line: int
    column: int

    def error(self, message: str) -> InputError:
        """An `InputError` that says where and shows this word."""
        return InputError(f"line {self.line}, column {self.column}: {message}: {shown(self.text)}")

    def part(self, start: int) -> "Word":
        """The rest of this word from character `start` on."""
        return Word(text=self.text[start:], line=self.line, column=self.column + start)


def lines_of(text: str) -> Iterator[list[Word]]:
    """The words of each line that has any, without comments."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = [
            Word(text=match.group(), line=number, column=match.start() + 1)
            for match in _WORD.finditer(line.split(";", 1)[0])
        ]
        if words:
            yield words


def parse_number(word: Word) -> int:
    """A decimal, hexadecimal (`0x`) or binary (`0b`) number; raises `InputError` for another."""
    if len(word.text) > _MAX_NUMBER_CHARACTERS or not _NUMBER.match(word.text):
        raise word.error("a number is decimal, 0x... or 0b..., not")
    digits = word.text.lstrip("+-").lower()
    base = {"0x": 16, "0b": 2}.get(digits[:2], 10)
    magnitude = int(digits if base == 10 else digits[2:], base)
    return -magnitude if word.text.startswith("-") else magnitude


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; nearest: a, b"`, or all known names where none is near."""
    known = list(known)
    # Comparing takes time that grows faster than the name.
    close = difflib.get_close_matches(name[:_MAX_COMPARED_CHARACTERS], known, n=3)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known) or 'none'}"


def assemble(text: str) -> list[Instruction]:
    """The instructions of an assembler text.

    Raises
    ------
    InputError
        For what is not an instruction, with line, column, the offending text and the nearest known
        names; also for a `.word` that does not decode (`assemble_code` takes those).
    """
    result = []
    for words in lines_of(text):
        data = assemble_line(words)
        try:
            result.append(decode(data))
        except InvalidProgramError as error:
            raise words[0].error(f"the word does not decode ({error})") from error
    return result


def assemble_code(text: str) -> np.ndarray:
    """The code of an assembler text, `.word` lines included: uint8, shape (instructions, 64)."""
    data = b"".join(assemble_line(words) for words in lines_of(text))
    return np.frombuffer(data, np.uint8).reshape(-1, INSTRUCTION_BYTES)


def assemble_line(words: Sequence[Word]) -> bytes:
    """The 64 bytes of one line of at least one word; raises `InputError`."""
    head = words[0]
    if head.text == ".word":
        return _raw_word(words)
    operation = OPERATION_BY_NAME.get(head.text)
    if operation is None:
        raise head.error(
            f"unknown operation ({nearest(head.text, [*OPERATION_BY_NAME, '.word'])})"
        )
    values: dict[str, int] = {}
    for word in words[1:]:
        name, equals, _ = word.text.partition("=")
        if not equals:
            raise word.error("expected field=value, found")
        field = _field(operation, name)
        if field is None:
            known = [field.name for field in operation.fields]
            raise word.error(f"{operation.name} has no such field ({nearest(name, known)})")
        if name in values:
            raise word.error(f"{operation.name}: {name} is given twice")
        value = word.part(len(name) + 1)
        values[name] = _mask(value) if name in _MASKS else parse_number(value)
        low = -(1 << (field.width - 1)) if field.signed else 0
        high = (1 << (field.width - field.signed)) - 1
        if not low <= values[name] <= high:
            raise value.error(f"{operation.name}: {name} must lie in {low}..{high}, not")
    return encode(instruction(operation, **values))


def disassemble(instructions: Iterable[Instruction]) -> str:
    """Text that `assemble` turns back into equal instructions; one line each."""
    return "".join(f"{format_instruction(item)}\n" for item in instructions)


def disassemble_code(code: np.ndarray) -> str:
    """Text that `assemble_code` turns back into `code`, uint8 of shape (instructions, 64)."""
    return "".join(f"{format_word(row.tobytes())}\n" for row in code)


def format_word(data: bytes) -> str:
    """One line for the 64 bytes of an instruction; `.word` for what does not decode."""
    try:
        return format_instruction(decode(data))
    except InvalidProgramError:
        return f".word {int.from_bytes(data, 'little'):#x}"


def format_instruction(item: Instruction) -> str:
    """One line of assembler."""
    parts = [item.operation.name]
    for field in item.operation.fields:
        value = item[field.name]
        if value != field.default:
            parts.append(f"{field.name}={_format_value(field, value)}")
    return " ".join(parts)


def _format_value(field: Field, value: int) -> str:
    if field.name in _MASKS:
        return ",".join(unit.name.lower() for unit in units_of_mask(value))
    # Addresses are read beside memory dumps; strides and counts beside shapes.
    return hex(value) if field.name.endswith("address") else str(value)


def _field(operation: Operation, name: str) -> Field | None:
    return next((field for field in operation.fields if field.name == name), None)


def _mask(word: Word) -> int:
    """A list of units (`load,vector`), or the mask as a number."""
    if _NUMBER.match(word.text):
        return parse_number(word)
    units = []
    start = 0
    for name in word.text.split(","):
        part = Word(text=name, line=word.line, column=word.column + start)
        if name not in _UNITS:
            raise part.error(f"unknown unit ({nearest(name, _UNITS)})")
        units.append(_UNITS[name])
        start += len(name) + 1
    return mask_of_units(units)


def _raw_word(words: Sequence[Word]) -> bytes:
    if len(words) != 2:
        raise words[0].error("one number must follow, as in .word 0x1f, after")
    value = parse_number(words[1])
    if not 0 <= value < 1 << (8 * INSTRUCTION_BYTES):
        raise words[1].error(f"a word has {8 * INSTRUCTION_BYTES} bits, unlike")
    return value.to_bytes(INSTRUCTION_BYTES, "little")
