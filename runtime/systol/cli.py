"""The `systol` command: parses arguments, runs one command, turns errors into exit statuses."""

import argparse
import os
import sys
from collections.abc import Sequence

from systol.commands import (
    asm,
    check,
    compare,
    compile_model,
    demo,
    disasm,
    doctor,
    fuzz,
    run,
)
from systol.commands.registration import Command
from systol.report import version
from systol_hw.errors import InputError, SystolError

INTERRUPTED = 130
"""128 plus the number of SIGINT, as shells have it."""
BUG = 70
"""EX_SOFTWARE of sysexits.h."""

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    compile_model.COMMAND,
    run.COMMAND,
    compare.COMMAND,
    check.COMMAND,
    disasm.COMMAND,
    asm.COMMAND,
    fuzz.COMMAND,
    doctor.COMMAND,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="systol",
        description="Compile a neural network for an open 8-bit TPU, run it, read its counters.",
        epilog="Exit status: 0 success, 2 usage, 3 input, 4 unsupported model, 5 machine "
        "configuration, 6 invalid program, 7 damaged binary, 8 missing tool, 9 machine fault, "
        "10 executors differ, 70 a bug in Systol, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"systol {version()}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an unexpected error"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.description)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # it was closed before the start
            sys.stdout.flush()  # so that a closed pipe and a full disk are met here
        return status
    except SystolError as error:
        print(f"systol: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("systol: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough.
        _drop_stdout()
        return 0
    except OSError as error:
        # Files of the user's have errors of their own: this is stdout, or a folder of the system's.
        if options.debug:
            raise
        _drop_stdout()
        place = "standard output" if error.filename is None else error.filename
        print(f"systol: {place}: {error.strerror or error}", file=sys.stderr)
        return InputError.exit_status
    except Exception as error:
        if options.debug:
            raise
        print(
            f"systol: this is a bug in Systol: {type(error).__name__}: {error}\n"
            f"Run `systol --debug {options.command} ...` for the traceback, and report it.",
            file=sys.stderr,
        )
        return BUG


def _drop_stdout() -> None:
    """What is left to print goes nowhere: Python would complain again when it closes stdout."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
