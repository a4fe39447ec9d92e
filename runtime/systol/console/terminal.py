"""Tables and progress on the terminal: tables on stdout, progress on stderr.

What comes from files, names and other libraries' messages, is shown and never obeyed: within
`plain_streams` everything that is printed is made printable. Rich's own control sequences go
around that.
"""

import io
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from systol_hw.shown import printable
from systol_sim.building import Say

PIPE_WIDTH = 100_000
"""Columns where stdout is no terminal: nothing is wrapped or cut for a program that reads it."""
PROGRESS_AFTER_SECONDS = 2.0
PACE_SECONDS = 4.0
"""How often to speak during long work, where there is no terminal to show a bar or a spinner on."""
_FIGURE = re.compile(r"-?[0-9]|-?\Z")
"""What begins like a number, or stands for a missing one."""


class _PlainStream:
    """A text stream that writes only what a terminal shows."""

    def __init__(self, stream: Any) -> None:
        self.obeyed = stream

    def write(self, text: str) -> int:
        self.obeyed.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.obeyed, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """A block in which stdout and stderr show what is printed, whatever it is.

    Control characters are escaped, and so is what the terminal's encoding does not have.
    """
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if stream is not None and not isinstance(stream, _PlainStream):
            setattr(sys, name, _PlainStream(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _obeyed(stream: Any) -> Any:
    """What `stream` writes to, for texts that contain control sequences on purpose."""
    return stream.obeyed if isinstance(stream, _PlainStream) else stream


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = ""
) -> None:
    """Print a table, columns of figures to the right, folded to a narrow terminal.

    Where stdout is no terminal, the text is plain and each row is one line.
    """
    terminal = sys.stdout.isatty()
    console = Console(
        file=_obeyed(sys.stdout),
        width=None if terminal else PIPE_WIDTH,
        color_system="auto" if terminal else None,
        highlight=False,
    )
    table = Table(
        title=escape(printable(title)) or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
    )
    for index, heading in enumerate(headings):
        figures = index > 0 and all(_FIGURE.match(row[index]) for row in rows)
        table.add_column(
            escape(_cell(heading)), justify="right" if figures else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(_cell(cell)) for cell in row))
    if terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _cell(text: str) -> str:
    """One line: a name may hold line ends."""
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def say(text: str) -> None:
    """A line of talk, on stderr."""
    print(text, file=sys.stderr)


class LateProgress:
    """A progress bar on stderr that appears if the work takes longer than two seconds.

    Call it with the steps done and all steps. Where stderr is no terminal, a line says so then, and
    again every few seconds, whether there was a step or not; `bar_only` leaves the lines out.
    """

    def __init__(self, label: str, *, bar_only: bool = False) -> None:
        self._label = printable(label)
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._steps = (0, 0)
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._ended = threading.Event()
        self._talks = not self._terminal and not bar_only
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> "LateProgress":
        if self._talks:
            self._thread.start()
        return self

    def _talk(self) -> None:
        pace = PROGRESS_AFTER_SECONDS
        while not self._ended.wait(pace):
            done, total = self._steps
            far = f": {done:,} of {total:,}" if total else ""
            say(f"{self._label}{far} ({time.monotonic() - self._began:.0f} s)")
            pace = PACE_SECONDS

    def __call__(self, done: int, total: int) -> None:
        self._steps = (done, total)
        if not self._terminal:
            return
        if self._bar is None and time.monotonic() - self._began > PROGRESS_AFTER_SECONDS:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=_obeyed(sys.stderr)),
                transient=True,
            )
            self._bar.add_task(escape(self._label), total=total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._talks:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()


class BuildStatus:
    """Says what is built while it is, and how long it has taken; an observer of builds.

    On a terminal, a spinner; elsewhere a line at the beginning, every few seconds, and at the end.
    """

    def __init__(self, what: str) -> None:
        self._what = printable(what)
        self._began = time.monotonic()
        self._step = ""
        self._ended = threading.Event()
        self._status = Console(file=_obeyed(sys.stderr)).status(escape(self._text()))
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def _text(self) -> str:
        passed = time.monotonic() - self._began
        step = f"{self._step}, " if self._step else ""
        return f"building {self._what}, once ({step}{passed:.0f} s)"

    def _talk(self) -> None:
        pace = 0.5 if self._terminal else PACE_SECONDS
        while not self._ended.wait(pace):
            if self._terminal:
                self._status.update(escape(self._text()))
            else:
                say(self._text())

    def __enter__(self) -> Say:
        if self._terminal:
            self._status.start()
        else:
            say(f"building {self._what}, once ...")
        self._thread.start()

        def tell(step: str, done: int, steps: int) -> None:
            self._step = printable(step) + (f" {done} of {steps}" if steps > 1 else "")

        return tell

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._status.stop()
        if error is None:
            say(f"built {self._what} in {time.monotonic() - self._began:.0f} s")
