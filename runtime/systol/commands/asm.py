"""`systol asm`: program text into a binary."""

import argparse
import dataclasses

from systol.commands.disasm import select
from systol.commands.options.registration import Command, keep_apart, read_text, require_writable
from systol.console.terminal import say
from systol_compiler.binary.reader import load
from systol_hw.errors import InputError
from systol_hw.program_text import parse_program
from systol_sim.validity.checker import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="a program text, as `systol disasm` prints it")
    parser.add_argument(
        "--into",
        required=True,
        metavar="BINARY",
        help="the binary whose program it replaces; tensors and other segments are kept",
    )
    parser.add_argument(
        "--segment", metavar="NAME", help="the segment; needed where there are several"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.elf")


def run(options: argparse.Namespace) -> int:
    keep_apart({"TEXT": options.text}, {"--output": options.output})
    require_writable(options.output)
    program = parse_program(read_text(options.text))
    check(program)
    model = load(options.into)
    chosen = select(model, options.segment)
    if len(chosen) > 1:
        names = ", ".join(segment.name for segment in chosen)
        raise InputError(f"{options.into} has several machine segments; name one of {names}")
    (old,) = chosen
    layers = old.layers
    if len(program.code) != len(old.program.code):
        say("the number of instructions changed: the debug map is left out")
        layers = ()
    new = dataclasses.replace(old, program=program, layers=layers)
    segments = tuple(new if segment is old else segment for segment in model.segments)
    dataclasses.replace(model, segments=segments).save(options.output)
    say(f"binary: {options.output}")
    return 0


COMMAND = Command(
    name="asm",
    help="assemble a program text into a binary",
    description="Assemble a program text, check it, and put it in the place of a binary's program.",
    examples="systol disasm model.elf > program.txt\n"
    "systol asm program.txt --into model.elf -o changed.elf",
    add_arguments=add_arguments,
    run=run,
)
