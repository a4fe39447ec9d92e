"""Statements, of which every level's text consists.

    level 'name' field=value ... {
      %result, %result = word(%operand, none) 'name' from 'source', ... field=value ... : type, ...
      word 'name' ...
    }

All but the word may be left out. Behind `from` stand the nodes of the model that a statement stands
for, where that is not one of its own name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from systol_compiler.text.form import Reader
from systol_compiler.text.tokens import Token, quote, reference

_WIDTH = 100
_INDENT = 2


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands before the fields of a statement; `token` is its first."""

    token: Token
    word: str
    results: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    name: str = ""
    sources: tuple[str, ...] = ()


def show_head(
    word: str, *, name: str, sources: Sequence[str] = (), results: Sequence[str] | None = None,
    operands: Sequence[str] | None = None,
) -> str:
    """A statement up to its fields."""
    text = word
    if operands is not None:
        text += f"({', '.join(map(_tensor, operands))})"
    if results is not None:
        text = f"{', '.join(map(_tensor, results))} = {text}"
    text += f" {quote(name)}"
    if tuple(sources) != (name,):
        text += f" from {', '.join(map(quote, sources)) or 'none'}"
    return text


def _tensor(name: str) -> str:
    return reference(name) if name else "none"


def read_head(reader: Reader) -> Head:
    """What `show_head` wrote."""
    token = reader.here
    results: list[str] = []
    if reader.here.kind in ("name", "quoted") or reader.at("none"):
        results.append(reader.tensor())
        while reader.accept(","):
            results.append(reader.tensor())
        reader.expect("=")
    word = reader.word()
    operands: list[str] = []
    if reader.accept("("):
        while not reader.accept(")"):
            operands.append(reader.tensor())
            if not reader.at(")"):
                reader.expect(",")
    name = reader.string()
    sources: tuple[str, ...] = (name,)
    if reader.accept("from"):
        sources = () if reader.accept("none") else tuple(read_strings(reader))
    return Head(
        token=token, word=word, results=tuple(results), operands=tuple(operands), name=name,
        sources=sources,
    )


def read_strings(reader: Reader) -> list[str]:
    """Strings with commas between them, at least one."""
    strings = [reader.string()]
    while reader.accept(","):
        strings.append(reader.string())
    return strings


def wrapped(parts: Iterable[str], depth: int = 1) -> str:
    """A statement's parts in lines, `depth` deep; what does not fit goes on two levels deeper."""
    lines: list[str] = []
    line = " " * (_INDENT * depth)
    empty = True
    for part in parts:
        if not empty and len(line) + 1 + len(part) > _WIDTH:
            lines.append(line)
            line, empty = " " * (_INDENT * (depth + 2)), True
        line += part if empty else f" {part}"
        empty = False
    return "\n".join([*lines, line])
