"""Names that nothing else has."""

from collections.abc import Iterable


class FreshNames:
    """Gives each name once; a name that is taken gets the next free number behind it.

    Takes the same time for the thousandth wish of one name as for the first.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def take(self, wish: str) -> str:
        """`wish`, or "WISH.2", "WISH.3" and so on if it is taken."""
        name, count = wish, self._counts.get(wish, 1)
        while name in self._taken:
            count += 1
            name = f"{wish}.{count}"
        self._counts[wish] = count
        self._taken.add(name)
        return name
