"""`systol compare`: counter reports side by side."""

import argparse
import json
from pathlib import Path
from typing import Any

from systol.commands.options.registration import Command
from systol.compare import compare, unfair
from systol.console.terminal import print_table, say
from systol.results import tables
from systol.results.report import read_report
from systol_hw.shown import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reports", nargs="+", metavar="REPORT.json", help="made by `systol run --counters`"
    )
    parser.add_argument(
        "--differences", action="store_true", help="leave out figures that are equal everywhere"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    reports = [read_report(path) for path in options.reports]
    rows = compare(reports, differences_only=options.differences)
    stems = [Path(path).stem for path in options.reports]
    titles = stems if len(set(stems)) == len(stems) else options.reports
    warnings = unfair(reports, titles)
    if options.json:
        values = {"reports": options.reports, "warnings": warnings, "figures": dict(rows)}
        print(json.dumps(values, indent=2))
        return 0
    headings = ["figure", *titles, *(["ratio"] if len(reports) == 2 else [])]
    print_table(headings, [(name, *_cells(values)) for name, values in rows])
    for text in warnings:
        say(f"warning: {text}")
    return 0


def _cells(values: list[Any]) -> list[str]:
    cells = ["-" if value is None else _text(value) for value in values]
    if len(values) == 2:
        a, b = values
        good = all(_is_figure(value) for value in values) and a
        cells.append(f"{b / a:.3g}" if good else "")
    return cells


_LARGEST_FIGURE = 1e30
"""Beyond it, a number is shown as it stands: no counter counts as far."""


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST_FIGURE


def _text(value: Any) -> str:
    if _is_figure(value):
        return tables.number(value)
    return value if isinstance(value, str) else shown(value)


COMMAND = Command(
    name="compare",
    help="compare counter reports",
    description="Print counter reports side by side: executors, machines or models. With two "
    "reports, `ratio` is the second figure over the first.",
    examples="systol compare nano.json edge16.json\n"
    "systol compare a.json b.json c.json --differences",
    add_arguments=add_arguments,
    run=run,
)
