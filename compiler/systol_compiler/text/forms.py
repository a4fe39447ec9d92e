"""The form of each type annotation: what a class declares is what its text holds.

Numbers, strings in quotes, `true`, `false` and `none`; members of an enumeration by their names;
`3/4`; tuples, lists and sets as `[1, 2]`, in which `[0, 8 .. 64]` goes on in equal steps; mappings
as `{'a': 1}`; arrays (`array_form`); dataclasses as `(field=value, ...)`, with the class's name
before it where several can stand there, and without the fields that have their defaults; those that
are `positional` as `[value, ...]`. What has a name and stands in another text is referred to by it.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from fractions import Fraction
from functools import cache
from inspect import isabstract
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from systol_compiler.text.array_form import ArrayForm
from systol_compiler.text.form import Form, Printer, Reader
from systol_compiler.text.tokens import quote

_LEAST_RUN = 6
"""Numbers in equal steps from which on a range stands for them."""


class Integer(Form):
    """-12"""

    def show(self, value: Any, printer: Printer) -> str:
        return str(int(value))

    def read(self, reader: Reader) -> int:
        return reader.integer()


class Real(Form):
    """0.25, 1e-05, inf"""

    def show(self, value: Any, printer: Printer) -> str:
        return repr(float(value))

    def read(self, reader: Reader) -> float:
        if reader.here.kind not in ("real", "integer"):
            raise reader.error("expected a number, found")
        return float(reader.tokens.take().text)


class Flag(Form):
    """true, false"""

    def show(self, value: Any, printer: Printer) -> str:
        return "true" if value else "false"

    def read(self, reader: Reader) -> bool:
        if reader.accept("true"):
            return True
        if not reader.accept("false"):
            raise reader.error("expected true or false, found")
        return False


class Text(Form):
    """'text'"""

    def show(self, value: Any, printer: Printer) -> str:
        return quote(value)

    def read(self, reader: Reader) -> str:
        return reader.string()


class Bytes(Form):
    """As an array of uint8."""

    _form = ArrayForm()

    def show(self, value: Any, printer: Printer) -> str:
        return self._form.show(np.frombuffer(value, np.uint8), printer)

    def read(self, reader: Reader) -> bytes:
        token, value = reader.here, self._form.read(reader)
        if value.dtype != np.uint8:
            raise reader.error("expected bytes as uint8[...], found", token)
        return bytes(value.tobytes())


class Ratio(Form):
    """3/4"""

    def show(self, value: Any, printer: Printer) -> str:
        return f"{value.numerator}/{value.denominator}"

    def read(self, reader: Reader) -> Fraction:
        numerator = reader.integer()
        reader.expect("/")
        token, denominator = reader.here, reader.integer()
        if denominator == 0:
            raise reader.error("a fraction's denominator is not", token)
        return Fraction(numerator, denominator)


class Member(Form):
    """A member of an enumeration, by its name in small letters."""

    def __init__(self, kind: type[Enum]) -> None:
        self._members = {item.name.lower(): item for item in kind}

    def show(self, value: Any, printer: Printer) -> str:
        return str(value.name).lower()

    def read(self, reader: Reader) -> Enum:
        token = reader.here
        found = self._members.get(token.text) if token.kind == "word" else None
        if found is None:
            raise reader.error(f"expected one of {', '.join(self._members)}, found")
        reader.tokens.take()
        return found


class Items(Form):
    """`[a, b]`, and of integers `[0, 8 .. 64]`."""

    def __init__(self, item: Form, make: Callable[[list[Any]], Any]) -> None:
        self._item, self._make = item, make

    def show(self, value: Any, printer: Printer) -> str:
        values = sorted(value) if isinstance(value, frozenset) else list(value)
        if isinstance(self._item, Integer) and len(values) >= _LEAST_RUN:
            return f"[{', '.join(_runs(values))}]"
        return f"[{', '.join(self._item.show(item, printer) for item in values)}]"

    def read(self, reader: Reader) -> Any:
        reader.expect("[")
        values: list[Any] = []
        with reader.nested():
            while not reader.accept("]"):
                values.append(self._item.read(reader))
                if isinstance(self._item, Integer) and reader.at(".."):
                    _continue(reader, values)
                if not reader.at("]"):
                    reader.expect(",")
        return self._make(values)


def _runs(values: Sequence[int]) -> list[str]:
    """Numbers as text, those in equal steps as ranges."""
    texts: list[str] = []
    place = 0
    while place < len(values):
        end = place + 1
        if end < len(values):
            step = values[end] - values[place]
            while step and end + 1 < len(values) and values[end + 1] - values[end] == step:
                end += 1
            if end - place + 1 >= _LEAST_RUN:
                texts.append(f"{values[place]}, {values[place + 1]} .. {values[end]}")
                place = end + 1
                continue
        texts.append(str(values[place]))
        place += 1
    return texts


def _continue(reader: Reader, values: list[int]) -> None:
    """Append what `.. last` stands for behind two numbers."""
    token = reader.expect("..")
    last = reader.integer()
    step = values[-1] - values[-2] if len(values) > 1 else 0
    if step == 0 or (last - values[-1]) % step or (last - values[-1]) // step < 0:
        raise reader.error(
            "two numbers must stand before a range, and equal steps must lead to its last one",
            token,
        )
    reader.step((last - values[-1]) // step, token)
    values.extend(range(values[-1] + step, last + (1 if step > 0 else -1), step))


class Steps(Items):
    """A Python range, as its numbers."""

    def __init__(self) -> None:
        super().__init__(Integer(), list)

    def read(self, reader: Reader) -> range:
        token, values = reader.here, super().read(reader)
        if not values:
            return range(0)
        step = values[1] - values[0] if len(values) > 1 else 1
        found = range(values[0], values[-1] + (1 if step > 0 else -1), step or 1)
        if list(found) != values:
            raise reader.error("the numbers of a range stand in equal steps, unlike those", token)
        return found


class Fixed(Form):
    """A tuple of a fixed number of values, each of its own type."""

    def __init__(self, items: Sequence[Form]) -> None:
        self._items = items

    def show(self, value: Any, printer: Printer) -> str:
        parts = (form.show(item, printer) for form, item in zip(self._items, value, strict=True))
        return f"[{', '.join(parts)}]"

    def read(self, reader: Reader) -> tuple[Any, ...]:
        reader.expect("[")
        values = []
        with reader.nested():
            for place, form in enumerate(self._items):
                if place:
                    reader.expect(",")
                values.append(form.read(reader))
        reader.expect("]")
        return tuple(values)


class Table(Form):
    """`{key: value, ...}`"""

    def __init__(self, key: Form, value: Form) -> None:
        self._key, self._value = key, value

    def show(self, value: Any, printer: Printer) -> str:
        pairs = (
            f"{self._key.show(key, printer)}: {self._value.show(item, printer)}"
            for key, item in value.items()
        )
        return f"{{{', '.join(pairs)}}}"

    def read(self, reader: Reader) -> dict[Any, Any]:
        reader.expect("{")
        values: dict[Any, Any] = {}
        with reader.nested():
            while not reader.accept("}"):
                token, key = reader.here, self._key.read(reader)
                if key in values:
                    raise reader.error("this key stands there twice", token)
                reader.expect(":")
                values[key] = self._value.read(reader)
                if not reader.at("}"):
                    reader.expect(",")
        return values


class Record(Form):
    """`(field=value, ...)`"""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def show(self, value: Any, printer: Printer) -> str:
        return f"({', '.join(show_fields(value, printer))})"

    def read(self, reader: Reader) -> Any:
        with reader.nested():
            token = reader.expect("(")
            values = read_fields(reader, self._kind, separator=",")
            reader.expect(")")
        return made(reader, token, self._kind, values)


class Row(Form):
    """`[a, b, c]`: the fields of a dataclass that states `positional = True`, all of them."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._items = Fixed([form for _, form in declared(kind).values()])

    def show(self, value: Any, printer: Printer) -> str:
        return self._items.show([getattr(value, name) for name in declared(self._kind)], printer)

    def read(self, reader: Reader) -> Any:
        values = self._items.read(reader)
        return self._kind(**dict(zip(declared(self._kind), values, strict=True)))


class Choice(Form):
    """A dataclass of several: `Name(field=value, ...)`."""

    def __init__(self, kinds: Sequence[type]) -> None:
        self._kinds = {kind.__name__: kind for kind in kinds}

    def show(self, value: Any, printer: Printer) -> str:
        kind = type(value)
        return f"{kind.__name__}{Record(kind).show(value, printer)}"

    def read(self, reader: Reader) -> Any:
        kind = self._kinds.get(reader.here.text)
        if kind is None:
            raise reader.error(f"expected one of {', '.join(self._kinds)}, found")
        reader.tokens.take()
        return Record(kind).read(reader)


class Optional(Form):
    """`none`, or another form."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def show(self, value: Any, printer: Printer) -> str:
        return "none" if value is None else self._form.show(value, printer)

    def read(self, reader: Reader) -> Any:
        return None if reader.accept("none") else self._form.read(reader)


class Number(Form):
    """An integer or a real number, whichever is written."""

    def show(self, value: Any, printer: Printer) -> str:
        return (Integer() if isinstance(value, int) else Real()).show(value, printer)

    def read(self, reader: Reader) -> int | float:
        return Integer().read(reader) if reader.here.kind == "integer" else Real().read(reader)


class Known(Form):
    """A value of another text, by its name."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def show(self, value: Any, printer: Printer) -> str:
        return quote(value.name)

    def read(self, reader: Reader) -> Any:
        token, name = reader.here, reader.string()
        known = reader.known.get(self._kind, {})
        if name not in known:
            raise reader.error(f"no {self._kind.__name__.lower()} has this name", token)
        return known[name]


class Anything(Form):
    """What says itself what it is: attributes of ONNX's operators."""

    _array = ArrayForm()

    def show(self, value: Any, printer: Printer) -> str:
        if value is None:
            return "none"
        if isinstance(value, list | tuple):
            return f"[{', '.join(self.show(item, printer) for item in value)}]"
        for kinds, form in (
            ((bool, np.bool_), Flag()), ((int, np.integer), Integer()),
            ((float, np.floating), Real()), (str, Text()), (bytes, _TAGGED),
            (np.ndarray, self._array),
        ):
            if isinstance(value, kinds):
                return form.show(value, printer)
        return f"{type(value).__name__}()"  # a body of other nodes: no text is read for it

    def read(self, reader: Reader) -> Any:
        here = reader.here
        if here.kind == "type":
            return self._array.read(reader)
        if here.kind in ("integer", "real"):
            return Number().read(reader)
        if here.kind == "quoted":
            return reader.string()
        if reader.at("["):
            return Items(self, list).read(reader)
        if reader.at("bytes"):
            return _TAGGED.read(reader)
        if reader.accept("none"):
            return None
        return Flag().read(reader)


class _Tagged(Bytes):
    """Bytes where anything may stand."""

    def show(self, value: Any, printer: Printer) -> str:
        return f"bytes {super().show(value, printer)}"

    def read(self, reader: Reader) -> bytes:
        reader.expect("bytes")
        return super().read(reader)


_TAGGED = _Tagged()
_PLAIN: Mapping[Any, Form] = {
    bool: Flag(), int: Integer(), float: Real(), str: Text(), bytes: Bytes(), Fraction: Ratio(),
    Any: Anything(), np.ndarray: ArrayForm(),
}


@cache
def form_of(annotation: Any) -> Form:
    """The form of a type annotation; raises `TypeError` for one that has no text."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(parts)
    if origin is np.ndarray:
        return _PLAIN[np.ndarray]
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return Items(form_of(parts[0]), tuple)
        return Fixed([form_of(part) for part in parts])
    if origin in (Sequence, list):
        return Items(form_of(parts[0]), tuple if origin is Sequence else list)
    if origin is frozenset:
        return Items(form_of(parts[0]), frozenset)
    if origin in (Mapping, dict):
        return Table(form_of(parts[0]), form_of(parts[1]))
    if annotation is range:
        return Steps()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Member(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        if isabstract(annotation):
            return Known(annotation)
        return Row(annotation) if getattr(annotation, "positional", False) else Record(annotation)
    raise TypeError(f"{annotation} has no text")


def _union(parts: Sequence[Any]) -> Form:
    kinds = [part for part in parts if part is not type(None)]
    if len(kinds) < len(parts):
        return Optional(_union(kinds))
    if len(kinds) == 1:
        return form_of(kinds[0])
    if set(kinds) == {int, float}:
        return Number()
    if all(is_dataclass(kind) for kind in kinds):
        return Choice(kinds)
    raise TypeError(f"{parts} have no text")


@cache
def declared(kind: Any) -> dict[str, tuple["Field[Any]", Form]]:
    """The fields that a dataclass is made of, with their forms, in the order of declaration."""
    hints = get_type_hints(kind)
    return {
        item.name: (item, form_of(hints[item.name]))
        for item in fields(kind) if item.init
    }


def show_fields(value: Any, printer: Printer, given: Sequence[str] = ()) -> list[str]:
    """`field=value` for each field that has not its default, but those in `given`."""
    texts = []
    kind: Any = type(value)
    for name, (item, form) in declared(kind).items():
        if name not in given:
            held = getattr(value, name)
            if not _is_default(item, held):
                texts.append(f"{name}={form.show(held, printer)}")
    return texts


def _is_default(item: "Field[Any]", value: Any) -> bool:
    if item.default_factory is not MISSING:
        return not value and not item.default_factory()
    return item.default is not MISSING and type(value) is type(item.default) and (
        value == item.default
    )


def read_fields(
    reader: Reader, kind: type, given: Sequence[str] = (), *, separator: str = ""
) -> dict[str, Any]:
    """Values by field, as many as are written; `separator` stands between them."""
    known = declared(kind)
    values: dict[str, Any] = {}
    while reader.here.kind == "word" and (separator or reader.tokens.behind.text == "="):
        token = reader.here
        name = reader.word()
        if name not in known or name in given:
            names = ", ".join(item for item in known if item not in given)
            raise reader.error(f"{kind.__name__} has the fields {names or 'none'}, not", token)
        if name in values:
            raise reader.error(f"{kind.__name__} has this field once, not twice", token)
        reader.expect("=")
        values[name] = known[name][1].read(reader)
        if separator and not reader.accept(separator):
            break
    return values


def made(reader: Reader, token: Any, kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of values by field; an error at `token` if one is missing."""
    missing = [
        name for name, (item, _) in declared(kind).items()
        if name not in values and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise reader.error(f"{kind.__name__} needs {', '.join(missing)}, which are missing", token)
    return kind(**values)
