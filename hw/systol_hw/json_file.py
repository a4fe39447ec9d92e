"""JSON from files that anybody may have written."""

import json
from pathlib import Path
from typing import Any

from systol_hw.errors import InputError
from systol_hw.shown import shown

LARGEST_BYTES = 64 << 20
_DEEPEST = 60
"""Levels of nesting; Python's own limits depend on how deep the caller is already."""


def read_json(path: str | Path, *, largest_bytes: int = LARGEST_BYTES) -> Any:
    """The value of a JSON file: numbers are finite, and nothing is nested deeply.

    Raises
    ------
    InputError
        The file cannot be read, is too large, or holds no such value.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(largest_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > largest_bytes:
        raise InputError(f"{path} has more than {largest_bytes} bytes, which is too large")
    try:
        return parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text, as `read_json` has it; raises `ValueError` for another."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _inside(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [item for item in inner if isinstance(item, dict | list)]


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{shown(text)} is out of range")
    return value
