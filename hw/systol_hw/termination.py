"""A process that is told to end leaves no temporary files and no child processes behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = ("SIGTERM", "SIGHUP")


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as an exception does: every block is left in order.

    The exit status is 128 plus the signal's number, as shells have it. A second signal is ignored:
    the first is being obeyed. A signal that is ignored already, as under nohup, stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for name in _SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        raise SystemExit(128 + number)

    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


@contextmanager
def begun_whole() -> Iterator[None]:
    """A block that is not cut short: signals that would end it as an exception come after it.

    For the few lines that begin a child process and note it for whoever ends it. An exception
    between the two leaves a child that nobody knows of. Signals reach Python in the main thread
    alone; in another this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: handler
        for number in (getattr(signal, name, None) for name in (*_SIGNALS, "SIGINT"))
        if number is not None and callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
