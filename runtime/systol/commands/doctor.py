"""`systol doctor`: what works on this machine, and the command that mends what does not."""

import argparse
import dataclasses
import json

from systol.commands.options.registration import Command
from systol.console.terminal import print_table, say
from systol.doctor import examine
from systol_hw.errors import MissingToolError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rtl", action="store_true", help="also build and run the smallest machine's RTL"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    findings = list(examine(rtl=options.rtl))
    bad = [finding for finding in findings if finding.state != "ok"]
    needed = [finding for finding in bad if finding.required]
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print_table(
            ("checked", "state", "detail"), [(f.name, f.state, f.detail) for f in findings]
        )
        for finding in bad:
            print(f"mend {finding.name}: {finding.remedy}")
    if needed:
        say(f"systol: {', '.join(f.name for f in needed)}: needed, and not working")
        return MissingToolError.exit_status
    return 0


COMMAND = Command(
    name="doctor",
    help="what works on this machine, and the command that mends what does not",
    description="Check Python, packages and tools, and run a tiny program on the executors. "
    "Exit status 8 if something that compiling and simulating need is missing.",
    examples="systol doctor\n"
    "systol doctor --rtl",
    add_arguments=add_arguments,
    run=run,
)
