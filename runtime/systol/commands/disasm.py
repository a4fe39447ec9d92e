"""`systol disasm`: a binary's programs as text."""

import argparse

from systol.commands.options.registration import Command, is_program_text, read_text
from systol.console.listing import code_lines, comments
from systol_compiler.binary.model import CompiledModel, MachineSegment
from systol_compiler.binary.reader import load
from systol_hw.errors import InputError
from systol_hw.nearest import did_you_mean
from systol_hw.program_text import format_program, parse_program
from systol_hw.shown import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "binary", metavar="BINARY|TEXT", help="what `systol compile` made, or a program text"
    )
    parser.add_argument("--segment", metavar="NAME", help="only this machine segment")
    parser.add_argument(
        "--code", action="store_true",
        help="the instructions alone, with their program counters; no text to assemble",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    if is_program_text(options.binary):
        if options.segment is not None:
            raise InputError(f"--segment needs a binary, and {options.binary} is a program text")
        program = parse_program(read_text(options.binary))
        lines = "\n".join(code_lines(program, {})) if options.code else format_program(program)
        print(lines.rstrip("\n"))
        return 0
    model = load(options.binary)
    for segment in select(model, options.segment):
        print(f"; segment {_one_line(segment.name)} of {_one_line(model.name)}")
        if options.code:
            for line in code_lines(segment.program, comments(segment.layers)):
                print(line)
        else:
            print(annotate(segment), end="")
    return 0


def _one_line(name: str) -> str:
    """A name in a comment, which ends with the line."""
    return printable(" ".join(name.split("\n")))


def select(model: CompiledModel, name: str | None) -> tuple[MachineSegment, ...]:
    """The machine segments called `name`, or all; raises `InputError` if there is none."""
    chosen = tuple(s for s in model.machine_segments if name in (None, s.name))
    if not chosen:
        names = [s.name for s in model.machine_segments]
        raise InputError(
            f"no machine segment {name or ''!r}{did_you_mean(name or '', names)}; there are: "
            f"{', '.join(names) or 'none'}"
        )
    return chosen


def annotate(segment: MachineSegment) -> str:
    """The program text, with a comment where a layer begins."""
    head, _, code = format_program(segment.program).partition("\n.code\n")
    notes = comments(segment.layers)
    lines: list[str] = []
    for pc, line in enumerate(code.splitlines()):
        lines += [notes[pc], line] if pc in notes else [line]
    return f"{head}\n.code\n" + "".join(f"{line}\n" for line in lines)


COMMAND = Command(
    name="disasm",
    help="print a binary's programs as text",
    description="Print a binary's programs as text that `systol asm`, `systol check` and `systol "
    "run` read; with --code, the instructions alone.",
    examples="systol disasm model.elf > program.txt\nsystol disasm model.elf --code | less",
    add_arguments=add_arguments,
    run=run,
)
