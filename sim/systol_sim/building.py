"""What is built at its first use and then kept: the RTL's models, the simulator's machine code.

A build takes minutes, so whoever waits for one may want to know: a command line that shows how far
it is, a clock that does not count it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

Say = Callable[[str, int, int], None]
"""Told about each step of a build: what is done next, steps done before it, all steps."""
Observer = Callable[[str], AbstractContextManager[Say]]
"""Called with what is built; its block lasts as long as the build, waiting for others included."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let `observer` know of every build that begins within this block, in whatever thread."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def unobserved() -> None:
    """Forget all observers: a process of a pool has those of its parent, and speaks to nobody."""
    _observers.clear()


@contextmanager
def building(what: str) -> Iterator[Say]:
    """A block in which `what` is built; the steps that it says reach every observer."""
    with ExitStack() as stack:
        told = [stack.enter_context(observer(what)) for observer in tuple(_observers)]

        def say(step: str, done: int, steps: int) -> None:
            for tell in told:
                tell(step, done, steps)

        yield say
