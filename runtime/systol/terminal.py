"""Tables and progress on the terminal: tables on stdout, progress on stderr."""

import re
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 100_000
"""Columns where stdout is no terminal: nothing is wrapped or cut for a program that reads it."""
PROGRESS_AFTER_SECONDS = 2.0
_FIGURE = re.compile(r"-?[0-9]|-?\Z")
"""What begins like a number, or stands for a missing one."""


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = ""
) -> None:
    """Print a table, columns of figures to the right, folded to a narrow terminal.

    Where stdout is no terminal, the text is plain and each row is one line.
    """
    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if terminal else PIPE_WIDTH,
        color_system="auto" if terminal else None,
        highlight=False,
    )
    table = Table(
        title=escape(title) or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
    )
    for index, heading in enumerate(headings):
        figures = index > 0 and all(_FIGURE.match(row[index]) for row in rows)
        table.add_column(
            escape(heading), justify="right" if figures else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    if terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def say(text: str) -> None:
    """A line of talk, on stderr."""
    print(text, file=sys.stderr)


class LateProgress:
    """A progress bar on stderr that appears if the work takes longer than two seconds.

    Call it with the steps done and all steps; where stderr is no terminal it stays silent.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "LateProgress":
        return self

    def __call__(self, done: int, total: int) -> None:
        if not self._terminal:
            return
        if self._bar is None and time.monotonic() - self._began > PROGRESS_AFTER_SECONDS:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._bar.add_task(self._label, total=total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class LateStatus:
    """A spinner on stderr for work of unknown length, if it takes longer than two seconds."""

    def __init__(self, label: str) -> None:
        self._status = Console(file=sys.stderr).status(escape(label))
        self._timer = threading.Timer(PROGRESS_AFTER_SECONDS, self._status.start)
        self._timer.daemon = True

    def __enter__(self) -> "LateStatus":
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._status.stop()
