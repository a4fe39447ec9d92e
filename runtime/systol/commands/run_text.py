"""`systol run` of an assembler text: a program of one's own, without a model around it."""

import argparse
import json
from typing import Any

from systol.commands.options.registration import Array, read_arrays, read_text, write_arrays
from systol.console.terminal import print_table, say
from systol.device import find_backend
from systol.program_run import figures, run_program
from systol.results import tables
from systol.results.report import write_json
from systol_hw.errors import InputError
from systol_hw.program_text import parse_program

_FOR_MODELS = ("csv", "dump_tensors")
_SHOWN_BYTES = 8


def run_text(options: argparse.Namespace) -> int:
    """Run the program text `options.binary`: windows from --input, and into --output, by name."""
    for name in _FOR_MODELS:
        if getattr(options, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} needs a binary, and {options.binary} is a program text")
    backend = find_backend(options.backend)
    if options.counters or options.trace:
        backend.require_cycles()
    program = parse_program(read_text(options.binary))
    names = [window.name for window in program.windows]
    contents: dict[str, Array] = {}
    if options.input:
        contents = read_arrays(options.input, names[0] if len(names) == 1 else None, names)
    result = run_program(
        program, contents, backend=backend, values=not options.timing_only, waves=options.waves
    )
    if options.output:
        write_arrays(options.output, result.windows)
        say(f"windows: {options.output}")
    if options.counters:
        write_json(options.counters, result.report)
        say(f"counters: {options.counters}")
    if options.trace:
        write_json(options.trace, result.trace())
        say(f"trace: {options.trace}")
    if options.waves:
        say(f"waveforms: {options.waves}")
    found = figures(result)
    if options.json:
        windows = [
            {"name": name, "bytes": int(data.size)} for name, data in result.windows.items()
        ]
        print(json.dumps({"windows": windows, **found}, indent=2))
        return 0
    if result.windows:
        print_table(
            ("window", "bytes", "begins with"),
            [(name, tables.number(d.size), _begin(d)) for name, d in result.windows.items()],
        )
        print()
    units: Any = found.pop("units", None)
    interrupts = found.pop("interrupts")
    assert isinstance(interrupts, list)
    found["interrupts"] = ", ".join(map(str, interrupts)) or "none"
    rows = [
        (name, tables.number(value) if isinstance(value, int) else str(value))
        for name, value in found.items()
    ]
    print_table(("run", ""), rows)
    if units is not None:
        print()
        print_table(
            ("unit", "cycles by state"),
            [
                (name, ", ".join(f"{state} {tables.number(n)}" for state, n in states.items()))
                for name, states in units.items()
                if states
            ],
        )
    return 0


def _begin(data: Array) -> str:
    """The first bytes in hexadecimal."""
    return data[:_SHOWN_BYTES].tobytes().hex(" ") + (" ..." if data.size > _SHOWN_BYTES else "")
