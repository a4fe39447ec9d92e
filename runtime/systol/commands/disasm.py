"""`systol disasm`: a binary's programs as text."""

import argparse

from systol.commands.registration import Command
from systol_compiler.model import CompiledModel, MachineSegment
from systol_hw.errors import InputError
from systol_hw.program_text import format_program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("binary", metavar="BINARY", help="what `systol compile` made")
    parser.add_argument("--segment", metavar="NAME", help="only this machine segment")


def run(options: argparse.Namespace) -> int:
    model = CompiledModel.load(options.binary)
    for segment in select(model, options.segment):
        print(f"; segment {segment.name} of {model.name}")
        print(annotate(segment), end="")
    return 0


def select(model: CompiledModel, name: str | None) -> tuple[MachineSegment, ...]:
    """The machine segments called `name`, or all; raises `InputError` if there is none."""
    chosen = tuple(s for s in model.machine_segments if name in (None, s.name))
    if not chosen:
        names = ", ".join(s.name for s in model.machine_segments) or "none"
        raise InputError(f"no machine segment {name or ''!r}; there are: {names}")
    return chosen


def annotate(segment: MachineSegment) -> str:
    """The program text, with a comment where a layer begins."""
    head, _, code = format_program(segment.program).partition("\n.code\n")
    comments = {}
    for item in segment.layers:
        nodes = ", ".join(item.source_nodes)
        comments[item.first] = f"; {item.layer}" + (f"  (from {nodes})" if nodes else "")
    lines: list[str] = []
    for pc, line in enumerate(code.splitlines()):
        lines += [comments[pc], line] if pc in comments else [line]
    return f"{head}\n.code\n" + "".join(f"{line}\n" for line in lines)


COMMAND = Command(
    name="disasm",
    help="print a binary's programs as text",
    description="Print a binary's programs as text that `systol asm` and `systol check` read.",
    add_arguments=add_arguments,
    run=run,
)
