"""Mutants of bytes, texts, JSON values and protocol buffers, by their structure."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message  # type: ignore[import-untyped]

from systol_hw.shown import shown

NUMBERS = (
    0, 1, -1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, -(1 << 63),
    10**400,
)  # fmt: skip
"""Integers at the edges of something."""
TEXTS = (
    "", "..", "../../x", "/etc/passwd", "\x1b[31m", "\x00", "\n", "é", "漢", "\u202e", "\ud800",
    "a" * 300, "%s%n", "0x", "1/0", "1/00", "NaN", "-", "true", "'", '"', "\\", "{", "[",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, *TEXTS, True, False, None, 0.5, -0.0, 1e308, 5e-324, [], {}, [[]], [None], {"": {}},
)  # fmt: skip
_HUGE_COPY = 4096
_LARGEST = 4 << 20
"""Bytes of the largest mutant: more says nothing new and takes longer."""


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut, repeated or put elsewhere."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(found) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 16, 64, rng.randrange(1, 1000)))
        kind = rng.randrange(8)
        if kind == 0:
            del found[place : place + length]
        elif kind == 1:
            found[place:place] = rng.randbytes(length)
        elif kind == 2:
            found[place:place] = found[place : place + length] * rng.randrange(1, 20)
        elif kind == 3:
            found[place : place + length] = bytes([rng.choice((0, 255, 127, 128))]) * length
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) % (1 << (8 * width))
            found[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 5 and place < len(found):
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 6:
            other = rng.randrange(len(found) + 1)
            found[place : place + length] = found[other : other + length]
        else:
            del found[rng.randrange(len(found) + 1) :]
    return bytes(found[:_LARGEST])


def mutate_text(rng: random.Random, text: str, words: Sequence[str]) -> str:
    """`text` with words, numbers and lines changed; `words` are those that its readers know."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines)) if lines else 0
        kind = rng.randrange(8)
        if not lines or kind == 0:
            lines.insert(place, " ".join(rng.choices((*words, *TEXTS), k=rng.randrange(1, 5))))
        elif kind == 1:
            del lines[place]
        elif kind == 2:
            lines[place:place] = lines[place : place + 3] * rng.randrange(1, 8)
        elif kind == 3:
            lines[place] = lines[place] * rng.choice((2, 10, _HUGE_COPY // (len(lines[place]) + 1)))
        else:
            lines[place] = _changed_line(rng, lines[place], words)
    return "\n".join(lines)[:_LARGEST]


def _changed_line(rng: random.Random, line: str, words: Sequence[str]) -> str:
    """One part between blanks, `=`, `,` or `"` exchanged for something else."""
    ends = [i for i, c in enumerate(line) if c in ' =,"/.'] + [len(line)]
    end = rng.choice(ends)
    start = max([i + 1 for i in ends if i < end], default=0)
    number = rng.choice(NUMBERS)
    new = rng.choice((
        str(number) if abs(number) < 10**40 else "9" * 400, hex(number % (1 << 600)),
        rng.choice(words), rng.choice(TEXTS), line[start:end][::-1],
        "[" * rng.choice((1, 50, 3000)), "{" * 20, '"' * rng.randrange(1, 9),
    ))  # fmt: skip
    return line[:start] + new + line[end:]


def mutate_json(rng: random.Random, value: Any) -> Any:
    """A copy of the JSON value with a few of its parts changed, moved, added or left out."""
    copy = _copied(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(copy))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(7)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = _copied(rng.choice(places)[0])
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = rng.choice(VALUES)
        elif kind == 3 and isinstance(holder, list):
            holder[key:key] = [_copied(holder[key])] * rng.choice((1, 2, 40))
        elif kind == 4 and type(holder[key]) in (int, float):
            old = holder[key]
            holder[key] = rng.choice((old + 1, old - 1, -old, shown(old), bool(old), old / 7))
        elif kind == 5:
            holder[key] = _nested(rng)
        else:
            holder[key] = rng.choice(VALUES)
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _nested(rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((3, 70, 300))):
        value = [value] if rng.random() < 0.5 else {"value": value}
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a value in a list or dictionary: the holder, and the index or key."""
    found: list[tuple[Any, Any]] = []
    ahead = [value]
    while ahead:
        holder = ahead.pop()
        if isinstance(holder, dict):
            found += [(holder, key) for key in holder]
            ahead += holder.values()
        elif isinstance(holder, list):
            found += [(holder, index) for index in range(len(holder))]
            ahead += holder
    return found


def mutate_message(rng: random.Random, message: Message) -> None:
    """Change a few fields of a protocol buffer, wherever they are in it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder = _chosen(rng, message)
        fields = holder.DESCRIPTOR.fields
        present = [field for field, _ in holder.ListFields()]
        field = rng.choice(present) if present and rng.random() < 0.85 else rng.choice(fields)
        _change_field(rng, holder, field)


def _chosen(rng: random.Random, message: Message) -> Message:
    """`message` or one within it; deeper ones are as likely as others."""
    while True:
        inner: list[Message] = []
        for field, value in message.ListFields():
            if field.message_type is not None:
                inner += list(value) if field.is_repeated else [value]
        if not inner or rng.random() < 0.25:
            return message
        message = rng.choice(inner)


def _change_field(rng: random.Random, holder: Message, field: Any) -> None:
    value = getattr(holder, field.name)
    if field.is_repeated:
        kind = rng.randrange(4)
        if len(value) and kind == 0:
            del value[rng.randrange(len(value))]
        elif len(value) and kind == 1:
            copies = [value[rng.randrange(len(value))] for _ in range(rng.choice((1, 2, 50)))]
            value.extend(copies)
        elif len(value) and kind == 2 and field.message_type is None:
            value[rng.randrange(len(value))] = _scalar(rng, field)
        elif field.message_type is None:
            value.append(_scalar(rng, field))
        elif len(value) > 1:
            a, b = rng.sample(range(len(value)), 2)
            value[a].CopyFrom(value[b])
    elif field.message_type is not None or rng.random() < 0.15:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _scalar(rng, field))


def _scalar(rng: random.Random, field: Any) -> Any:
    make = _SCALARS.get(field.cpp_type)
    return make(rng, field) if make else field.default_value


def _integer(bits: int, signed: bool) -> Callable[[random.Random, Any], int]:
    low = -(1 << (bits - 1)) if signed else 0

    def make(rng: random.Random, field: Any) -> int:
        return (rng.choice(NUMBERS) - low) % (1 << bits) + low

    return make


def _text(rng: random.Random, field: Any) -> str | bytes:
    if field.type == field.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 4, 64)))
    return rng.choice([text for text in TEXTS if "\ud800" not in text])


_SCALARS: dict[int, Callable[[random.Random, Any], Any]] = {
    1: _integer(32, True), 2: _integer(64, True), 3: _integer(32, False), 4: _integer(64, False),
    5: lambda rng, field: rng.choice((0.0, -1.0, 1e300, float("nan"), float("inf"))),
    6: lambda rng, field: rng.choice((0.0, -1.0, 3e38, float("nan"), float("inf"))),
    7: lambda rng, field: rng.random() < 0.5,
    8: lambda rng, field: rng.choice(field.enum_type.values).number,
    9: _text,
}  # fmt: skip
"""By `FieldDescriptor.cpp_type`."""
