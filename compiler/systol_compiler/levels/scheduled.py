"""Reads a scheduled program's text: assembler lines by nest, without tokens."""

from collections.abc import Mapping, Sequence

from systol_compiler.nests.nest import Nest
from systol_compiler.program.order import Schedule, ScheduledItem
from systol_compiler.text.form import Reader
from systol_hw.errors import InputError, InvalidProgramError
from systol_hw.isa import Instruction, decode
from systol_hw.isa.assembly import Word, assemble_line, lines_of, parse_number


def read_scheduled(text: str, nests: Mapping[str, Nest]) -> Schedule:
    """The program of a text that a `Schedule` prints as; `nests` are those that it works for.

    `Schedule.verify` checks that matmuls find their weights.

    Raises
    ------
    InputError
        The text is none of a scheduled program, with line and column.
    """
    items: list[ScheduledItem] = []
    orders: list[tuple[int, int]] = []
    place: tuple[Nest, int] | None = None
    lines = list(_numbered(text))
    if [word.text for _, words in lines[:1] for word in words] != ["scheduled", "{"]:
        raise InputError("line 1, column 1: a scheduled program begins with 'scheduled {'")
    if len(lines) < 2 or [word.text for word in lines[-1][1]] != ["}"]:
        last = max(1, len(text.splitlines()))
        raise InputError(f"line {last}, column 1: the last line of a scheduled program must be }}")
    for line, words in lines[1:-1]:
        head = words[0]
        if head.text == "nest":
            place = _place(line, head, nests)
        elif head.text == "order":
            if len(words) != 3:
                raise head.error("two numbers of instructions stand behind")
            orders.append((parse_number(words[1]), parse_number(words[2])))
        else:
            items.append(_item(words, place))
    for first, second in orders:
        if not 0 <= first < second < len(items):
            raise InputError(
                f"order {first} {second}: the first instruction must stand before the second, "
                f"both in 0..{len(items) - 1}; number them from 0 in the order of the text"
            )
    return Schedule(items=tuple(items), orders=tuple(orders))


def _numbered(text: str) -> list[tuple[str, list[Word]]]:
    """Lines with words, with those words."""
    lines = text.splitlines()
    return [(lines[words[0].line - 1], words) for words in lines_of(text)]


def _place(line: str, head: Word, nests: Mapping[str, Nest]) -> tuple[Nest, int]:
    """The nest and the stage of the instructions that follow."""
    reader = Reader(line, line=head.line)
    reader.expect("nest")
    name = reader.string()
    if name not in nests:
        raise head.error(f"no nest is called {name!r}, which stands behind")
    reader.expect("stage")
    stage = reader.integer()
    if stage < 0 or reader.here.kind != "end":
        raise head.error("a name, the word stage and its number stand behind")
    return nests[name], stage


def _item(words: Sequence[Word], place: tuple[Nest, int] | None) -> ScheduledItem:
    head = words[0]
    if place is None:
        raise head.error("a line with a nest must stand before the first instruction")
    rest = list(words[1:])
    streams = bool(rest) and rest[0].text == "slot"
    if streams:
        rest = rest[1:]
    if not rest:
        raise head.error("an instruction stands behind its unit, but nothing behind")
    instruction = _instruction(rest)
    if instruction.unit.name.lower() != head.text:
        raise head.error(f"the instruction is of unit {instruction.unit.name.lower()}, not")
    nest, stage = place
    return ScheduledItem(instruction=instruction, nest=nest, stage=stage, streams=streams)


def _instruction(words: Sequence[Word]) -> Instruction:
    data = assemble_line(words)
    try:
        return decode(data)
    except InvalidProgramError as error:
        raise words[0].error(f"the instruction cannot be ({error})") from error
