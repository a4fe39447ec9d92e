"""Values as text: what is printed is read again, whatever its type; other text is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from level_texts import difference
from systol_compiler.text.arrays import Arrays
from systol_compiler.text.form import Printer, Reader
from systol_compiler.text.forms import form_of
from systol_hw.errors import InputError


class Shade(IntEnum):
    LIGHT = 0
    DARK = 1


@dataclass(frozen=True)
class Spot:
    positional: ClassVar[bool] = True
    row: int
    column: int


@dataclass(frozen=True)
class Plain:
    text: str = "'"
    shade: Shade = Shade.DARK
    ratio: Fraction = Fraction(1, 3)
    number: int | float = 0
    spots: tuple[Spot, ...] = ()


@dataclass(frozen=True)
class Pair:
    left: float
    right: bool | None = None
    names: frozenset[str] = frozenset()
    table: Mapping[int, tuple[int, str]] = field(default_factory=dict)


def text_of(value: Any, kind: Any, arrays: Arrays | None = None) -> str:
    return form_of(kind).show(value, Printer(arrays))


def again(value: Any, kind: Any) -> Any:
    arrays = Arrays()
    reader = Reader(text_of(value, kind, arrays), arrays)
    found = form_of(kind).read(reader)
    assert reader.here.kind == "end"
    return found


FLOATS = st.floats(allow_nan=False)
PLAINS = st.builds(
    Plain, text=st.text(), shade=st.sampled_from(Shade), ratio=st.fractions(),
    number=st.integers(-(10**30), 10**30) | FLOATS,
    spots=st.lists(st.builds(Spot, st.integers(-9, 9), st.integers(-9, 9))).map(tuple),
)
PAIRS = st.builds(
    Pair, left=FLOATS, right=st.none() | st.booleans(), names=st.frozensets(st.text()),
    table=st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 9), st.text())),
)


@given(PLAINS | PAIRS)
def test_dataclasses(value: Plain | Pair) -> None:
    assert again(value, Plain | Pair) == value


@given(st.lists(st.integers(-50, 50)).map(tuple))
def test_integers_and_their_runs(values: tuple[int, ...]) -> None:
    assert again(values, tuple[int, ...]) == values


@given(st.integers(-9, 9), st.integers(0, 40), st.sampled_from([-7, -1, 1, 3]))
def test_ranges(first: int, count: int, step: int) -> None:
    value = range(first, first + count * step, step)
    assert again(value, range) == value
    assert len(text_of(value, range)) < 30


DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint64", "float16", "float32",
          "float64", "complex64")


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, min_side=0))
    )
)
def test_arrays_of_any_bits(value: npt.NDArray[Any]) -> None:
    assert difference(again(value, npt.NDArray[Any]), value) is None


@given(st.floats(width=32))
def test_every_float32_inline(value: float) -> None:
    array = np.array([value, 1.5], np.float32)
    assert difference(again(array, npt.NDArray[np.float32]), array) is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | FLOATS | st.text() | st.binary(),
    lambda inner: st.lists(inner),
)


@given(ANYTHING)
def test_attributes_say_what_they_are(value: Any) -> None:
    found = again(value, Any)
    assert found == value and type(found) is type(value)


def test_what_text_looks_like() -> None:
    assert text_of((0, 8, 16, 24, 32, 40, 5), tuple[int, ...]) == "[0, 8 .. 40, 5]"
    assert text_of(Plain(spots=(Spot(1, 2),)), Plain) == "(spots=[[1, 2]])"
    assert text_of(Pair(0.1, table={1: (2, "a")}), Plain | Pair) == (
        "Pair(left=0.1, table={1: [2, 'a']})"
    )
    assert text_of(np.zeros((3, 3), np.int8), npt.NDArray[np.int8]) == "int8[3x3] 0"
    assert text_of(np.array([0.1, 2], np.float32), np.ndarray) == "float32[2] [0.1, 2.0]"
    digest = text_of(np.arange(100, dtype=np.int8), np.ndarray)
    assert digest.startswith("int8[100] @") and len(digest) == 31


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", int, "line 1, column 1: expected an integer, found: the end of the text"),
        ("\n  x", int, "line 2, column 3: expected an integer, found: 'x'"),
        ("1" * 41, int, "at most 40 digits"),
        ("[1, 2", tuple[int, ...], "line 1, column 6: expected ','"),
        ("[1, 2 .. 4, 7 .. 8]", tuple[int, ...], "column 15: two numbers must stand"),
        ("[1, 1 .. 4]", tuple[int, ...], "equal steps"),
        ("[3, 1 .. 4]", tuple[int, ...], "equal steps"),
        ("[0, 1 .. 99999999999]", tuple[int, ...], "1048576 numbers in all"),
        ("int8[99999x99999] 0", np.ndarray, "16777216 in all"),
        ("int8[2] [1, 300]", np.ndarray, r"column 13: int8 lies in -128..127, not: '300'"),
        ("int8[2] [1]", np.ndarray, "1 elements stand behind: 'int8"),
        ("int8[2] @abcdef", np.ndarray, "no array beside the text has this digest"),
        ("text[2] 0", np.ndarray, "element types are bool"),
        ("(row=1)", Pair, "Pair has the fields left, right, names, table, not: 'row'"),
        ("(right=true)", Pair, "Pair needs left, which are missing"),
        ("(left=1.0, left=2.0)", Pair, "column 12: Pair has this field once"),
        ("[1, 2, 3]", Spot, "expected ']'"),
        ("grey", Shade, "expected one of light, dark, found: 'grey'"),
        ("1/0", Fraction, "denominator"),
        ("'a", str, "line 1, column 1: nothing begins like this"),
        ("{1: [2, 'a'], 1: [2, 'a']}", Mapping[int, tuple[int, str]], "stands there twice"),
        ("[" * 50, Any, "nested 40 deep"),
        ("'\\N{nothing}'", str, "no string"),
    ],
)
def test_other_text_is_refused(text: str, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        form_of(kind).read(Reader(text))


def test_arrays_of_a_file(tmp_path: Any) -> None:
    arrays = Arrays()
    value = np.arange(60, dtype=np.float32).reshape(3, 20)
    text = text_of(value, np.ndarray, arrays)
    arrays.save(tmp_path / "arrays.npz")
    found = form_of(np.ndarray).read(Reader(text, Arrays.load(tmp_path / "arrays.npz")))
    np.testing.assert_array_equal(found, value)
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4 no file")
    with pytest.raises(InputError, match=r"damaged.npz: cannot read arrays"):
        Arrays.load(tmp_path / "damaged.npz")
    wrong = text.replace("3x20", "3x21")
    with pytest.raises(InputError, match="does not have the 240 bytes"):
        form_of(np.ndarray).read(Reader(wrong, arrays))
