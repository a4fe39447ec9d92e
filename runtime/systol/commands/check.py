"""`systol check`: the static checker on a binary or a program text."""

import argparse
import json

from systol.commands.options.registration import Command, is_binary, read_text
from systol_compiler.binary.reader import load
from systol_hw.errors import InvalidProgramError
from systol_hw.program import Program
from systol_hw.program_text import parse_program
from systol_sim.validity.checker import describe, find_violations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="BINARY|TEXT", help="a binary, or a program text")
    parser.add_argument("--json", action="store_true", help="print the violations as JSON")


def run(options: argparse.Namespace) -> int:
    programs = read_programs(options.program)
    found = [
        {
            "segment": name,
            "rule": violation.rule,
            "pc": violation.pc,
            "message": describe(violation, program),
        }
        for name, program in programs.items()
        for violation in find_violations(program)
    ]
    count = sum(len(program.code) for program in programs.values())
    if options.json:
        print(json.dumps({"instructions": count, "violations": found}, indent=2))
    else:
        for violation in found:
            print(f"{violation['segment']}: {violation['message']}")
        if not found:
            print(f"valid: {count} instructions in {len(programs)} program(s)")
    return InvalidProgramError.exit_status if found else 0


def read_programs(path: str) -> dict[str, Program]:
    """The programs of a binary by segment, or of a text (named by its path)."""
    if is_binary(path):
        model = load(path)
        return {segment.name: segment.program for segment in model.machine_segments}
    return {path: parse_program(read_text(path))}


COMMAND = Command(
    name="check",
    help="check that a program is valid",
    description="Prove that a program has no data race, no deadlock and no token overflow "
    "(docs/timing.md, section 9).",
    examples="systol check model.elf\n"
    "systol check program.txt",
    add_arguments=add_arguments,
    run=run,
)
