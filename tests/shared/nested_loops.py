"""Nested loops turn by turn, the innermost loop first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Turn", "nested_turns"]


@dataclass(frozen=True)
class Turn:
    """One turn of the whole nest: each loop's index, and its number of turns this time."""

    indices: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def last(self) -> tuple[bool, ...]:
        """The loops that are on their last turn."""
        return tuple(i == n - 1 for i, n in zip(self.indices, self.counts, strict=True))

    def steps_to(self, following: "Turn") -> int:
        """The loop that steps between two turns: the outermost of those whose index changes."""
        pairs = zip(self.indices, following.indices, strict=True)
        return max(loop for loop, (now, then) in enumerate(pairs) if now != then)


def nested_turns(counts: Sequence[Callable[[], int]]) -> Iterator[Turn]:
    """All turns in order; a loop's count, at least 1, is asked for whenever the loop begins."""
    if not counts:
        yield Turn()
        return
    *inner, outermost = counts
    count = outermost()
    for index in range(count):
        for inside in nested_turns(inner):
            yield Turn((*inside.indices, index), (*inside.counts, count))
