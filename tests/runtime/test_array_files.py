"""Arrays from files that anybody may have made."""

import io
import random
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol.array_files import member_name, read_arrays, write_arrays
from systol_hw.errors import InputError


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0), body: bytes = b"") -> bytes:
    """A .npy file whose header is `text`."""
    data = text.encode("latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(data))
    return b"\x93NUMPY" + bytes(version) + length + data + body


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "|i1", ">u2", "<i8", "|b1"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 0, 2), (2, 3, 5)])
def test_what_numpy_writes_is_read(
    save: Callable[..., None], dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
    arrays = {"a": values, "b": np.asfortranarray(values.T)}
    save(tmp_path / "x.npz", **arrays)
    np.save(tmp_path / "x.npy", arrays["b"])
    found = read_arrays(tmp_path / "x.npz", None)
    found["alone"] = read_arrays(tmp_path / "x.npy", "alone")["alone"]
    for name, array in {**arrays, "alone": arrays["b"]}.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].dtype.isnative and found[name].flags.writeable


def test_later_versions_of_the_format(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "x.npy").open("wb") as stream:
            np.lib.format.write_array(stream, array, version=version)
        np.testing.assert_array_equal(read_arrays(tmp_path / "x.npy", "x")["x"], array)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
EIGHT = b"\0" * 8
HOSTILE = {
    "the format of Python 2": header(GOOD.replace("(2,)", "(2L,)"), body=EIGHT),
    "a shape beyond memory": header(GOOD.replace("(2,)", "(1 << 70,)"), body=EIGHT),
    "a product beyond memory": header(GOOD.replace("(2,)", f"({1 << 40}, {1 << 40})"), body=EIGHT),
    "a negative shape": header(GOOD.replace("(2,)", "(-2,)"), body=EIGHT),
    "a shape of truth values": header(GOOD.replace("(2,)", "(True,)"), body=EIGHT),
    "a shape of fractions": header(GOOD.replace("(2,)", "(2.0,)"), body=EIGHT),
    "many axes": header(GOOD.replace("(2,)", f"({'1, ' * 400})"), body=EIGHT),
    "an empty product of a huge one": header(GOOD.replace("(2,)", f"(0, {1 << 62})")),
    "thousands of digits": header(GOOD.replace("(2,)", f"({'9' * 5000},)"), body=EIGHT),
    "deep nesting": header("(" * 9000),
    "deep signs": header("-" * 9000 + "1"),
    "a call": header("__import__('os').getcwd()"),
    "no dictionary": header("[1, 2]"),
    "a key too many": header(GOOD.replace("}", "'more': 1}")),
    "a key that is none": header("{[]: 1}"),
    "objects": header(GOOD.replace("<f4", "|O"), body=EIGHT),
    "texts": header(GOOD.replace("<f4", "<U1"), body=EIGHT),
    "complex numbers": header(GOOD.replace("<f4", "<c8"), body=EIGHT * 2),
    "dates": header(GOOD.replace("<f4", "<M8[s]"), body=EIGHT * 2),
    "records": header(GOOD.replace("'<f4'", "[('a', '<f4')]"), body=EIGHT),
    "no type": header(GOOD.replace("<f4", "huh"), body=EIGHT),
    "types that numpy makes of a list": header(GOOD.replace("<f4", "f4,f4"), body=EIGHT * 2),
    "a type of nothing": header(GOOD.replace("<f4", "|V0")),
    "an order that is no truth value": header(GOOD.replace("False", "1"), body=EIGHT),
    "fewer bytes than stated": header(GOOD, body=EIGHT[:7]),
    "more bytes than stated": header(GOOD, body=EIGHT * 2),
    "a version of the future": header(GOOD, (9, 1), EIGHT),
    "a long header": b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31) + b"{" * 100,
    "half a magic": b"\x93NUM",
    "nothing": b"",
    "a pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01a\x94.",
    "half an archive": b"PK\x03\x04" + bytes(50),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("wrapped", [False, True], ids=["npy", "npz"])
def test_what_is_no_array_is_refused(case: str, wrapped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.np"
    path.write_bytes(HOSTILE[case])
    if wrapped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", HOSTILE[case])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"x\.np is no \.npz or \.npy file of plain arrays"):
            read_arrays(path, "x")


def _patched(archive: bytes, offset: int, value: int) -> bytes:
    """`archive`, of one member, with a 16-bit field changed in both of its headers."""
    local, central = archive.index(b"PK\x03\x04"), archive.index(b"PK\x01\x02")
    data = bytearray(archive)
    struct.pack_into("<H", data, local + offset, value)
    struct.pack_into("<H", data, central + offset + 2, value)
    return bytes(data)


def _archive(*, kind: int = zipfile.ZIP_DEFLATED, names: tuple[str, ...] = ("x",)) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", kind) as archive:
            for name in names:
                archive.writestr(f"{name}.npy", npy(np.arange(50.0)))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_patched(_archive(), 6, 1), "its array 'x' is encrypted"),
        (_patched(_archive(), 8, 97), "'x' is compressed by method 97"),
        (_archive(kind=zipfile.ZIP_BZIP2), "'x' is compressed by method 12"),
        (_archive(kind=zipfile.ZIP_LZMA), "'x' is compressed by method 14"),
        (_archive(names=("x", "x")), "two of its arrays are called 'x'"),
        (_archive()[:-30], "no zip file"),
    ],
    ids=["encrypted", "method", "bzip2", "lzma", "twice", "cut"],
)
def test_archives_that_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npz is no \.npz") as caught:
        read_arrays(path, None)
    assert message.removeprefix("no zip file") in str(caught.value)


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    """Both of its headers say so many bytes, and the array's own header says fewer."""
    claimed = npy(np.zeros(100_000))
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claimed)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, len(claimed) + 8)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="takes 800000 bytes, and 800,008 are there"):
        read_arrays(path, None)


def test_an_archive_inflates_no_more_than_its_size_is_a_reason_for(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(header(GOOD.replace("(2,)", f"({1 << 28},)")))
            for _ in range(64):
                member.write(bytes(1 << 24))
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="would inflate to 1,073,741"):
            read_arrays(path, None)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones(3), other=np.ones(2))
    with pytest.raises(InputError, match=r"x\.npz: there is no input 'other'; .* asked for is 'x'"):
        read_arrays(path, None, ["x"])
    np.savez(path, x=np.ones(3))
    assert list(read_arrays(path, None, ["x", "y"])) == ["x"]
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(InputError, match="holds one array, but the model has several inputs"):
        read_arrays(tmp_path / "x.npy", None)


NAMES = ["../x", "/etc/passwd", "a/../../b", "..", ".", "", "a//b", "C:\\x", "..\\x", "50%", "%2E",
         "x\x1b[31m", "line\nline", "\ud800", "é", "漢字", "file", "conv1/weight:0", "\u202etxt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path_out_of_an_archive(name: str, tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    array = np.arange(3.0)
    renamed = write_arrays(path, {name: array})
    (member,) = zipfile.ZipFile(path).namelist()
    inside = member_name(name)
    assert member == f"{inside}.npy" and renamed == ({} if inside == name else {name: inside})
    assert member.isprintable() and "\\" not in member and ":" not in member
    assert not member.startswith("/") and ".." not in inside.split("/")
    np.testing.assert_array_equal(read_arrays(path, None, [name])[name], array)
    np.testing.assert_array_equal(np.load(path)[inside], array)
    if name in ("é", "漢字", "file"):
        assert not renamed


@given(st.lists(st.text(alphabet="./\\:%a\0é", max_size=6), unique=True, max_size=8))
def test_names_stay_different(names: list[str]) -> None:
    assert len({member_name(name) for name in names}) == len(names)


def test_damaged_files_give_one_error(tmp_path: Path) -> None:
    """3,000 mutants of three files: read, or refused in our own words."""
    rng = random.Random(20)
    seeds = [npy(np.arange(60.0).reshape(3, 20)), _archive(names=("x", "y")),
             _archive(kind=zipfile.ZIP_STORED)]  # fmt: skip
    path = tmp_path / "m.np"
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3000):
            data = bytearray(seeds[number % 3])
            for _ in range(rng.randint(1, 6)):
                place = rng.randrange(len(data))
                if rng.random() < 0.3:
                    del data[place : place + rng.randint(1, 9)]
                elif rng.random() < 0.5:
                    data[place:place] = rng.randbytes(rng.randint(1, 9))
                else:
                    data[place] = rng.randrange(256)
                data = data or bytearray(b"x")
            path.write_bytes(bytes(data))
            try:
                read_arrays(path, "x")
            except InputError:
                refused += 1
    assert 1000 < refused < 3000


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_arrays(tmp_path / "none.npz", None)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_arrays(tmp_path, None)
