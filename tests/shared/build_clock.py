"""A test's time limit that stands still while something is built.

The RTL's models and the simulator's machine code are built by the first test that needs them, and
builds are bounded by limits of their own (`systol_sim.hardware.verilated.tools`). A limit of a test
says how long it may hang; were builds a part of it, it would have to be longer than all of them.
"""

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest

from systol_sim.building import Say, observed

_LOOK_AGAIN_SECONDS = 1.0


class BuildClock:
    """Seconds in which at least one build went on, whichever thread it went on in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._began = 0.0
        self._seconds = 0.0

    @contextmanager
    def observe(self, what: str) -> Iterator[Say]:
        """The observer of builds."""
        with self._lock:
            if not self._running:
                self._began = time.monotonic()
            self._running += 1
        try:
            yield lambda step, done, steps: None
        finally:
            with self._lock:
                if self._running == 1:
                    # In this order an alarm in between finds too much, never too little.
                    self._seconds += time.monotonic() - self._began
                self._running -= 1

    @property
    def seconds(self) -> float:
        """So far, builds that go on included."""
        # Read by a signal's handler, which must not wait for what it has interrupted.
        return self._seconds + (time.monotonic() - self._began if self._running else 0.0)


CLOCK = BuildClock()
def pytest_configure(config: pytest.Config) -> None:
    observing = ExitStack()
    observing.enter_context(observed(CLOCK.observe))
    config.add_cleanup(observing.close)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, Any, Any]:
    """Let the alarm that pytest-timeout has set go off later, by what was built meanwhile."""
    result = yield
    sound = signal.getsignal(signal.SIGALRM)
    main = threading.current_thread() is threading.main_thread()
    if settings.method != "signal" or not main or not callable(sound):
        return result
    end, built = time.monotonic() + settings.timeout, CLOCK.seconds

    def ring(number: int, frame: FrameType | None) -> None:
        left = end + CLOCK.seconds - built - time.monotonic()
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left, _LOOK_AGAIN_SECONDS))
        else:
            sound(number, frame)

    signal.signal(signal.SIGALRM, ring)
    return result
