"""JSON files from outside: read, or refused in our own words."""

from pathlib import Path

import pytest

from systol_hw.errors import InputError
from systol_hw.json_file import read_json

REFUSED = {
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "lists in lists": b"[" * 100_000,
    "lists in lists, closed": b"[" * 200 + b"]" * 200,
    "objects in objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "thousands of digits": b"9" * 10_000,
    "infinity": b"Infinity",
    "no number": b'{"a": NaN}',
    "beyond floats": b"[1e999]",
    "two values": b"1 2",
    "a lone quote": b'"',
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(REFUSED[case])
    with pytest.raises(InputError, match=r"x\.json is not JSON"):
        read_json(path)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="has more than 100 bytes"):
        read_json("/dev/zero", largest_bytes=100)


def test_values(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, value in (("1.5", 1.5), ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
                        ("[" * 50 + "]" * 50, None), ('"\\u001b"', "\x1b")):
        path.write_text(text)
        assert value is None or read_json(path) == value
        read_json(path)
