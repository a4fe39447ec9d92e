"""Reads JSON values from strangers: each field typed and bounded before it is used."""

import json
import re
from collections.abc import Callable
from math import prod
from typing import Any, NoReturn, TypeVar

import numpy as np

from systol_compiler.binary.check import MAX_RANK
from systol_hw.errors import BinaryFormatError

T = TypeVar("T")
_INTEGER_LIMIT = 1 << 63
_INTEGER_DIGITS = 20
MAX_ELEMENTS = 1 << 31
_FRACTION = re.compile(r"[1-9][0-9]{0,3}(/[1-9][0-9]{0,3})?\Z")


def parse_json(data: bytes) -> object:
    """The value of a JSON text; raises `BinaryFormatError`."""
    try:
        # Infinity and NaN are no JSON; long numbers are no number of ours.
        return json.loads(data, parse_constant=_no_constant, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise BinaryFormatError(f"the manifest is not JSON: {error}") from error


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS or abs(int(text)) >= _INTEGER_LIMIT:
        raise ValueError(f"the integer {text[:_INTEGER_DIGITS]} needs more than 64 bits")
    return int(text)


class Fields:
    """One JSON object; `place` is its path, for messages. Every key must be asked for once."""

    def __init__(self, value: object, place: str) -> None:
        if type(value) is not dict:
            raise BinaryFormatError(f"manifest: {place} must be an object")
        self._values: dict[str, Any] = dict(value)
        self.place = place

    def fail(self, name: str, rule: str, value: object) -> NoReturn:
        """Raise `BinaryFormatError` for field `name`."""
        raise BinaryFormatError(
            f"manifest: {self.place}.{name} must be {rule}, not {str(value)[:60]!r}"
        )

    def take(self, name: str) -> object:
        """The value of `name`, whatever it is."""
        if name not in self._values:
            raise BinaryFormatError(f"manifest: {self.place} has no {name}")
        return self._values.pop(name)

    def done(self) -> None:
        """Raise `BinaryFormatError` if a key was not asked for."""
        if self._values:
            raise BinaryFormatError(
                f"manifest: {self.place} has an unknown key {min(self._values)[:60]!r}"
            )

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in `low..high`."""
        value = self.take(name)
        if type(value) is not int or not low <= value <= high:
            self.fail(name, f"an integer in {low}..{high}", value)
        return value

    def string(self, name: str) -> str:
        """A string."""
        value = self.take(name)
        if type(value) is not str:
            self.fail(name, "a string", value)
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`."""
        value = self.string(name)
        if value not in choices:
            self.fail(name, f"one of {', '.join(choices)}", value)
        return value

    def scale(self, name: str) -> float:
        """A positive, finite number that float32 holds exactly."""
        value = self.take(name)
        with np.errstate(over="ignore"):
            good = type(value) is float and 0 < value and float(np.float32(value)) == value
        if not good or value == float("inf"):
            self.fail(name, "a positive float32", value)
        assert isinstance(value, float)
        return value

    def items(self, name: str, decode: Callable[["Fields"], T]) -> tuple[T, ...]:
        """A list of objects, each read by `decode`."""
        place = f"{self.place}.{name}"
        result = []
        for index, value in enumerate(self._list(name)):
            fields = Fields(value, f"{place}[{index}]")
            result.append(decode(fields))
            fields.done()
        return tuple(result)

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(name)
        if any(type(value) is not str for value in values):
            self.fail(name, "a list of strings", values)
        return tuple(str(value) for value in values)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """A list of at most `MAX_RANK` integers in `low..high`."""
        values = self._list(name)
        if len(values) > MAX_RANK or any(
            type(value) is not int or not low <= value <= high for value in values
        ):
            self.fail(name, f"at most {MAX_RANK} integers in {low}..{high}", values)
        return tuple(values)

    def shape(self, name: str) -> tuple[int, ...]:
        """A shape of at most `MAX_RANK` dimensions and `MAX_ELEMENTS` elements."""
        shape = self.integers(name, 1, MAX_ELEMENTS)
        if prod(shape) > MAX_ELEMENTS:
            self.fail(name, f"a shape of at most {MAX_ELEMENTS} elements", shape)
        return shape

    def fraction(self, name: str) -> str:
        """A fraction of two numbers of at most four digits, as text."""
        value = self.string(name)
        if not _FRACTION.match(value):
            self.fail(name, "a fraction such as 340/7", value)
        return value

    def rows(self, name: str, width: int, high: int) -> list[tuple[int, ...]]:
        """A list of lists of `width` integers in `0..high`."""
        rows = []
        for row in self._list(name):
            good = type(row) is list and len(row) == width
            if not good or any(type(v) is not int or not 0 <= v <= high for v in row):
                self.fail(name, f"a list of lists of {width} integers in 0..{high}", row)
            rows.append(tuple(row))
        return rows

    def child(self, name: str) -> "Fields":
        """An object; the caller calls its `done`."""
        return Fields(self.take(name), f"{self.place}.{name}")

    def _list(self, name: str) -> list[Any]:
        value = self.take(name)
        if type(value) is not list:
            self.fail(name, "a list", value)
        return value
