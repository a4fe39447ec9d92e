"""Forms: how values of one type are written and read; both directions stand side by side.

`forms.form_of` finds the form of a type annotation, so that a class's declared fields are its text.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from systol_compiler.text.arrays import Arrays
from systol_compiler.text.tokens import Token, Tokens, integer, unquote
from systol_hw.errors import InputError

_MOST_DEPTH = 40
_MOST_ELEMENTS = 1 << 24
_MOST_STEPS = 1 << 20


class Printer:
    """Where arrays go that a text only refers to; without `arrays` they are not kept."""

    def __init__(self, arrays: Arrays | None = None) -> None:
        self._arrays = arrays

    def keep(self, array: Any) -> str:
        """The digest of an array."""
        return (self._arrays if self._arrays is not None else Arrays()).add(array)


class Reader:
    """A text that is being read.

    Parameters
    ----------
    arrays
        What the text refers to by digest.
    known
        What it refers to by name, by class: the nests of a plan, for example.
    line
        Number of its first line, where it is a part of a longer text.
    """

    def __init__(
        self, text: str, arrays: Mapping[str, Any] | None = None,
        known: Mapping[type, Mapping[str, Any]] | None = None, line: int = 1,
    ) -> None:
        self.tokens = Tokens(text, line)
        self.arrays = arrays or {}
        self.known = known or {}
        self._depth = 0
        self._elements = self._steps = 0

    @property
    def here(self) -> Token:
        """The next token."""
        return self.tokens.here

    def error(self, message: str, token: Token | None = None) -> InputError:
        """An error with line and column of a token, by default the next one."""
        return self.tokens.error(message, token)

    def at(self, text: str) -> bool:
        """Whether a word or mark is next."""
        return self.here.text == text and self.here.kind in ("word", "mark")

    def accept(self, text: str) -> bool:
        """Take a word or mark if it is next."""
        if self.at(text):
            self.tokens.take()
            return True
        return False

    def expect(self, text: str) -> Token:
        """Take a word or mark that must be next."""
        if not self.at(text):
            raise self.error(f"expected {text!r}, found")
        return self.tokens.take()

    def of_kind(self, kind: str, what: str) -> Token:
        """Take a token that must be of one kind."""
        if self.here.kind != kind:
            raise self.error(f"expected {what}, found")
        return self.tokens.take()

    def last_block(self, statement: Callable[[], None]) -> None:
        """Statements in braces, each read by `statement`, with which the text ends."""
        self.expect("{")
        while not self.accept("}"):
            statement()
        self.of_kind("end", "the end of the text")

    def word(self) -> str:
        """A word."""
        return self.of_kind("word", "a word").text

    def string(self) -> str:
        """A string in quotes."""
        if self.here.text.startswith("%"):
            raise self.error("expected a string in quotes, found")
        return unquote(self.tokens, self.of_kind("quoted", "a string in quotes"))

    def integer(self) -> int:
        """An integer."""
        return integer(self.tokens, self.of_kind("integer", "an integer"))

    def tensor(self) -> str:
        """A tensor's name: `%name`, or `none` for "", an operand that is left out."""
        if self.accept("none"):
            return ""
        if self.here.kind == "name":
            return self.tokens.take().text[1:]
        if self.here.kind == "quoted" and self.here.text.startswith("%"):
            return unquote(self.tokens, self.tokens.take())
        raise self.error("expected %name or none, found")

    def spend(self, elements: int, token: Token) -> None:
        """Count array elements that a text has without writing them out; they are bounded."""
        self._elements += elements
        if self._elements > _MOST_ELEMENTS:
            raise self.error(
                f"repeated elements of a text may be {_MOST_ELEMENTS} in all, more than with", token
            )

    def step(self, numbers: int, token: Token) -> None:
        """Count numbers that ranges stand for; they are bounded."""
        self._steps += numbers
        if self._steps > _MOST_STEPS:
            raise self.error(
                f"ranges of a text may stand for {_MOST_STEPS} numbers in all, fewer than with",
                token,
            )

    @contextmanager
    def nested(self) -> Iterator[None]:
        """A value within a value: not too many of them."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self.error(f"values may be nested {_MOST_DEPTH} deep, which this exceeds")
        yield
        self._depth -= 1


class Form(ABC):
    """How values of one type are written and read."""

    @abstractmethod
    def show(self, value: Any, printer: Printer) -> str:
        """The text of a value."""

    @abstractmethod
    def read(self, reader: Reader) -> Any:
        """The value whose text is next.

        Raises
        ------
        InputError
            Another text is next; with line and column.
        """
