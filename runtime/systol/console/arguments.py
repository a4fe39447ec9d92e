"""An argument parser that names what may have been meant."""

import argparse
from typing import Any, NoReturn

from systol_hw.nearest import did_you_mean


class Parser(argparse.ArgumentParser):
    """Parses arguments; an unknown command, choice or option comes with the nearest ones.

    Options are not abbreviated: a script would break as soon as there is a second one that begins
    alike.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.setdefault("allow_abbrev", False)
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **keywords)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{did_you_mean(str(value), known)}; "
                f"there are {', '.join(known)}",
            )

    def options(self) -> list[str]:
        """Every option, by its long name."""
        return [o for a in self._actions for o in a.option_strings if o.startswith("--")]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` has it."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.unknown_arguments(found, unknown)
        return found

    def unknown_arguments(self, found: argparse.Namespace, unknown: list[str]) -> NoReturn:
        """End with a usage error about `unknown`."""
        parser = self._of_command(getattr(found, "command", None))
        words = [
            word + did_you_mean(word.partition("=")[0], parser.options())
            if word.startswith("-")
            else word
            for word in unknown
        ]
        parser.error(f"unrecognized arguments: {' '.join(words)}")

    def _of_command(self, name: str | None) -> "Parser":
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                chosen = action.choices[name]
                assert isinstance(chosen, Parser)
                return chosen
        return self
