"""Arrays as text: element type and shape, then the elements, one for all, or a digest."""

from math import prod
from typing import Any

import numpy as np

from systol_compiler.text.arrays import raw_bytes
from systol_compiler.text.form import Form, Printer, Reader
from systol_compiler.text.tokens import Token, quote

_MOST_INLINE = 16
_MOST_REPEATED = 1 << 20
_MOST_RANK = 32
_STRING = "string"
_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "bfloat16", "complex64", "complex128", _STRING,
)


class ArrayForm(Form):
    """`float32[2x3] [1.0, 2.0, ...]` (row by row), `int8[3x3] 0` (nine zeros), or
    `int8[64x64] @digest` (`arrays.Arrays`)."""

    def show(self, value: Any, printer: Printer) -> str:
        array = np.asarray(value)
        dtype = _STRING if array.dtype.kind in "OU" else array.dtype.name
        head = f"{dtype}[{'x'.join(map(str, array.shape))}]"
        if dtype == _STRING:
            return f"{head} [{', '.join(quote(str(item)) for item in array.reshape(-1))}]"
        texts = _inline(array)
        if texts is None:
            return f"{head} @{printer.keep(array)}"
        return f"{head} {texts}"

    def read(self, reader: Reader) -> Any:
        token = reader.of_kind("type", "an array's type and shape, such as int8[2x3],")
        dtype, shape = array_type(reader, token)
        size = prod(shape)
        here = reader.here
        if here.kind == "digest":
            data = reader.arrays.get(here.text[1:])
            if data is None:
                raise reader.error("no array beside the text has this digest")
            kind = np.dtype("uint8" if dtype == _STRING else dtype)
            if dtype == _STRING or data.size != size * kind.itemsize:
                raise reader.error(f"{token.text} does not have the {data.size} bytes of the array")
            reader.tokens.take()
            array = data.view(kind).reshape(shape)
            array.setflags(write=False)
            return array
        if not reader.accept("["):
            value = _element(reader, dtype)
            reader.spend(size, token)
            return np.full(shape, value, object if dtype == _STRING else dtype)
        values = []
        while not reader.accept("]"):
            values.append(_element(reader, dtype))
            if not reader.at("]"):
                reader.expect(",")
        if len(values) != size:
            raise reader.error(f"{len(values)} elements stand behind", token)
        return np.array(values, object if dtype == _STRING else dtype).reshape(shape)


def array_type(reader: Reader, token: Token) -> tuple[str, tuple[int, ...]]:
    """Element type and shape of a "type" token."""
    dtype, _, dims = token.text.removesuffix("]").partition("[")
    if dtype not in _DTYPES:
        raise reader.error(f"element types are {', '.join(_DTYPES)}, not", token)
    return dtype, dimensions(reader, token, dims)


def dimensions(reader: Reader, token: Token, dims: str) -> tuple[int, ...]:
    """A shape such as "2x3x4", of which `token` is a part; "" is the shape of a scalar."""
    parts = dims.split("x") if dims else []
    if len(parts) > _MOST_RANK or any(len(part) > 18 for part in parts):
        raise reader.error(f"a shape has at most {_MOST_RANK} dimensions below 10**18, not", token)
    return tuple(map(int, parts))


def _inline(array: Any) -> str | None:
    """The elements as text, if there are few or all are alike, and text is exact; else None."""
    flat = array.reshape(-1)
    if array.dtype.name not in _DTYPES or array.dtype.kind == "c" or not flat.size:
        return "[]" if not flat.size and array.dtype.name in _DTYPES else None
    if flat.size > 1 and flat.size <= _MOST_REPEATED:
        raw = raw_bytes(flat).reshape(flat.size, -1)
        if (raw == raw[0]).all():
            return _exact(flat[:1])
    if flat.size > _MOST_INLINE:
        return None
    texts = [_exact(flat[place : place + 1]) for place in range(flat.size)]
    if None in texts:
        return None
    return ", ".join(map(str, texts)) if array.ndim == 0 else f"[{', '.join(map(str, texts))}]"


def _exact(one: Any) -> str | None:
    """The text of an array's single element; None if no text gives the same bits again."""
    value = one[0]
    if one.dtype.kind == "b":
        return str(bool(value)).lower()
    if one.dtype.kind in "iu":
        return str(int(value))
    text = str(value) if one.dtype == np.float32 else repr(float(value))
    again = np.array([float(text)]).astype(one.dtype)
    if raw_bytes(again).tobytes() != raw_bytes(one).tobytes():
        text = repr(float(value))
        again = np.array([float(text)]).astype(one.dtype)
    return text if raw_bytes(again).tobytes() == raw_bytes(one).tobytes() else None


def _element(reader: Reader, dtype: str) -> Any:
    token = reader.here
    if dtype == _STRING:
        return reader.string()
    if dtype == "bool":
        if reader.accept("true"):
            return True
        reader.expect("false")
        return False
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        value = reader.integer()
        limits = np.iinfo(kind)
        if not limits.min <= value <= limits.max:
            raise reader.error(f"{dtype} lies in {limits.min}..{limits.max}, not", token)
        return value
    if token.kind not in ("real", "integer"):
        raise reader.error("expected a number, found")
    reader.tokens.take()
    return float(token.text)
