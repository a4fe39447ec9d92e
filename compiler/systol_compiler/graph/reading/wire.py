"""Finds the weights inside a serialized model, so that they need not be parsed or copied.

Ref: Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding; field numbers
from onnx.proto (ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from systol_hw.errors import InputError

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_RAW_DATA: Final = 9

LEAST_KEPT: Final = 4096
"""Raw data of fewer bytes stays in the message; finding it would save nothing."""


@dataclass(frozen=True)
class Span:
    """Where the raw data of one initializer lies: bytes [start, stop) of the file."""

    start: int
    stop: int


def strip_weights(data: memoryview) -> tuple[bytes, list[Span | None]]:
    """The model without its initializers' large raw data, and where each one's lies.

    Parameters
    ----------
    data
        A serialized ModelProto; only its structure is read, not its weights.

    Returns
    -------
    tuple
        A serialized ModelProto in which those fields are missing; and for every initializer of
        the main graph, in order, the place of its data, or None if the message still holds it.

    Raises
    ------
    InputError
        A length or a tag runs past the end.
    """
    parts: list[bytes | memoryview] = []
    spans: list[Span | None] = []
    for field in _fields(data, 0, len(data)):
        if field.number == _GRAPH and field.length_delimited:
            inner = _strip_graph(data, field, spans)
            parts += [_tag(_GRAPH), _varint(sum(map(len, inner))), *inner]
        else:
            parts.append(data[field.start : field.stop])
    return b"".join(parts), spans


def _strip_graph(
    data: memoryview, graph: "_Field", spans: list[Span | None]
) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = []
    for field in _fields(data, graph.body, graph.stop):
        if field.number != _INITIALIZER or not field.length_delimited:
            parts.append(data[field.start : field.stop])
            continue
        inner: list[bytes | memoryview] = []
        span: Span | None = None
        for item in _fields(data, field.body, field.stop):
            # A field that is given twice counts as its last value: then the message keeps both.
            large = item.stop - item.body >= LEAST_KEPT
            if item.number == _RAW_DATA and item.length_delimited and large and span is None:
                span = Span(item.body, item.stop)
            else:
                inner.append(data[item.start : item.stop])
                if item.number == _RAW_DATA:
                    span = None
                    inner = [data[field.body : field.stop]]
                    break
        spans.append(span)
        parts += [_tag(_INITIALIZER), _varint(sum(map(len, inner))), *inner]
    return parts


@dataclass(frozen=True)
class _Field:
    """One field of a message: its tag at `start`, its value in [body, stop)."""

    number: int
    length_delimited: bool
    start: int
    body: int
    stop: int


def _fields(data: memoryview, start: int, stop: int) -> Iterator[_Field]:
    at = start
    while at < stop:
        tag, body = _read_varint(data, at, stop)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            end = _read_varint(data, body, stop)[1]
        elif kind == 1:
            end = body + 8
        elif kind == 5:
            end = body + 4
        elif kind == 2:
            length, body = _read_varint(data, body, stop)
            end = body + length
        else:
            raise _damaged(at)
        if end > stop or number == 0:
            raise _damaged(at)
        yield _Field(number, kind == 2, at, body, end)
        at = end


def _read_varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _damaged(at)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _damaged(at: int) -> InputError:
    return InputError(
        f"the model is not an ONNX file, or a damaged one: no field can begin at byte {at}; "
        "export the model again and test it with onnx.checker.check_model"
    )
