"""How much memory a call takes."""

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def with_peak(call: Callable[[], T]) -> tuple[T, int]:
    """What `call` gives, and the most bytes that Python and numpy held for it at one time."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
