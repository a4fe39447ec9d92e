"""Says on stderr what long work is at, if it takes more than two seconds."""

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from systol.console.terminal import PACE_SECONDS, PROGRESS_AFTER_SECONDS, say
from systol_hw.shown import printable

_REFRESH_SECONDS = 0.5


class StageStatus:
    """A spinner with the last stage that ended; where stderr is no terminal, a line now and then.

    Call it with a stage's name and anything: it is an observer of the compiler.
    """

    def __init__(self, label: str) -> None:
        self._label, self._stage = printable(label), ""
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __call__(self, stage: str, value: object = None) -> None:
        self._stage = printable(stage)

    def __enter__(self) -> "StageStatus":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _text(self) -> str:
        passed = f"{time.monotonic() - self._began:.0f} s"
        return f"{self._label} ({f'{self._stage} done, ' if self._stage else ''}{passed})"

    def _talk(self) -> None:
        if self._ended.wait(PROGRESS_AFTER_SECONDS) or sys.stderr is None:
            return
        if not sys.stderr.isatty():
            say(self._text())
            while not self._ended.wait(PACE_SECONDS):
                say(self._text())
            return
        stream = getattr(sys.stderr, "obeyed", sys.stderr)
        with Console(file=stream).status(escape(self._text())) as status:
            while not self._ended.wait(_REFRESH_SECONDS):
                status.update(escape(self._text()))
