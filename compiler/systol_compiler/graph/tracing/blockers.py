"""Everything that stands in a model's way, told at once."""

from systol_hw.errors import UnsupportedModelError


class Blockers:
    """Collects what cannot be read; `check` raises it as one error."""

    MOST_SHOWN = 50

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def add(self, message: str) -> None:
        """One blocker: place, rule, value and remedy. The same message counts once."""
        self._messages.setdefault(message)

    def __bool__(self) -> bool:
        return bool(self._messages)

    def check(self) -> None:
        """Raise what was collected, if anything was.

        Raises
        ------
        UnsupportedModelError
            One message, or all of them as a list.
        """
        messages = list(self._messages)
        if not messages:
            return
        if len(messages) == 1:
            raise UnsupportedModelError(messages[0])
        shown = messages[: self.MOST_SHOWN]
        if len(messages) > len(shown):
            shown.append(f"and {len(messages) - len(shown)} more")
        raise UnsupportedModelError(
            f"{len(messages)} things stand in the way of this model:\n"
            + "\n".join(f"- {message}" for message in shown)
        )
