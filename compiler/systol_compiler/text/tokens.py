"""Tokens of the levels' text, one at a time, and where they stand.

Blanks, line ends and comments (from `#` to the end of the line) separate tokens and mean nothing
else.
"""

import ast
import re
from dataclasses import dataclass
from typing import Final

from systol_hw.errors import InputError
from systol_hw.shown import shown

MOST_CHARACTERS: Final = 1 << 28
"""Length of a text that is read at all."""
_TOKEN = re.compile(
    r"""
    (?P<skipped> (?: [ \t\r\n] | \#[^\n]* )+ )
  | (?P<name> % (?: [A-Za-z0-9_./$-]+ (?: :+ [A-Za-z0-9_./$-]+ )* ) )
  | (?P<quoted> %? (?: '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" ) )
  | (?P<type> [A-Za-z_][A-Za-z0-9_]* \[ (?: \d+ (?: x \d+ )* )? \] )
  | (?P<real> -? (?: \d+ \. \d+ (?: e [+-]? \d+ )? | \d+ e [+-]? \d+ | inf (?!\w) | nan (?!\w) ) )
  | (?P<integer> -? \d+ )
  | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<digest> @ [0-9a-f]+ )
  | (?P<mark> \.\. | [=,:(){}\[\]/] )
    """,
    re.VERBOSE | re.ASCII,
)
_PLAIN = re.compile(r"[A-Za-z0-9_./$-]+(?::+[A-Za-z0-9_./$-]+)*", re.ASCII)
_MOST_DIGITS = 40


@dataclass(frozen=True)
class Token:
    """A piece of text: its kind (a group of the grammar above, or "end"), and where it begins."""

    kind: str
    text: str
    at: int


class Tokens:
    """The tokens of a text in order, with two of them to look at ahead.

    `line` is the number of its first line, where it is a part of a longer text.
    """

    def __init__(self, text: str, line: int = 1) -> None:
        if len(text) > MOST_CHARACTERS:
            raise InputError(
                f"a level's text has at most {MOST_CHARACTERS} characters, but this one has "
                f"{len(text)}; take the level of a smaller part"
            )
        self.text = text
        self._line = line
        self._at = 0
        self.here = self._next()
        """The token that is next."""
        self.behind = self._next()
        """The token behind it."""

    def take(self) -> Token:
        """The token that is next; the one behind it is next then."""
        taken, self.here, self.behind = self.here, self.behind, self._next()
        return taken

    def error(self, message: str, token: Token | None = None) -> InputError:
        """An error at a token (by default the next one): line and column from 1 on."""
        token = token or self.here
        line = self.text.count("\n", 0, token.at) + self._line
        column = token.at - (self.text.rfind("\n", 0, token.at) + 1) + 1
        found = "the end of the text" if token.kind == "end" else shown(token.text)
        return InputError(f"line {line}, column {column}: {message}: {found}")

    def _next(self) -> Token:
        while True:
            if self._at >= len(self.text):
                return Token("end", "", len(self.text))
            match = _TOKEN.match(self.text, self._at)
            if match is None:
                raise self.error(
                    "nothing begins like this",
                    Token("mark", self.text[self._at : self._at + 20], self._at),
                )
            self._at = match.end()
            kind = match.lastgroup
            assert kind is not None
            if kind != "skipped":
                return Token(kind, match.group(), match.start())


def quote(text: str) -> str:
    """A string in quotes, as `unquote` reads it."""
    return repr(text)


def reference(name: str) -> str:
    """A tensor's name behind `%`; in quotes where it has other characters than usual."""
    return f"%{name}" if _PLAIN.fullmatch(name) else f"%{name!r}"


def unquote(tokens: Tokens, token: Token) -> str:
    """The string that a quoted token stands for."""
    try:
        value = ast.literal_eval(token.text.removeprefix("%"))
    except (ValueError, SyntaxError) as error:
        raise tokens.error(f"no string ({error})", token) from None
    assert isinstance(value, str)
    return value


def integer(tokens: Tokens, token: Token) -> int:
    """The number of an integer token."""
    if len(token.text) > _MOST_DIGITS:
        raise tokens.error(f"an integer has at most {_MOST_DIGITS} digits", token)
    return int(token.text)
