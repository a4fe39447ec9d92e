"""The code of a program, line by line, with program counters and what each part belongs to."""

from collections.abc import Iterable, Iterator, Mapping

from systol_compiler.binary.model import LayerRange
from systol_hw.isa.assembly import format_word
from systol_hw.program import Program
from systol_hw.shown import printable


def comments(layers: Iterable[LayerRange]) -> dict[int, str]:
    """A comment for each instruction that a layer begins with; one line, whatever its name."""
    found = {}
    for item in layers:
        nodes = ", ".join(item.source_nodes)
        text = item.layer + (f"  (from {nodes})" if nodes else "")
        found[item.first] = "; " + printable(" ".join(text.split("\n")))
    return found


def code_lines(program: Program, notes: Mapping[int, str]) -> Iterator[str]:
    """Each instruction behind its program counter; `notes` stand before the one they belong to."""
    width = len(str(max(0, len(program.code) - 1)))
    for pc, row in enumerate(program.code):
        if pc in notes:
            yield f"{'':{width}}  {notes[pc]}"
        yield f"{pc:{width}}  {format_word(row.tobytes())}"
