"""Each layer's figures as comma-separated values, for spreadsheets and data frames.

Ref: RFC 4180.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from systol_hw.atomic_file import replacing


def layers_csv(report: Mapping[str, Any]) -> str:
    """A heading line, and a line for each layer of a report: plain numbers, without separators.

    Columns are called as the report's figures (docs/counters.md), inner ones behind a dot, such as
    `bytes.weights`.
    """
    rows = [_flat(entry) for entry in report["layers"]]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["segment", "layer", "cycles"])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_layers_csv(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write `layers_csv`; raises `InputError` if the file cannot be written."""
    with replacing(path) as stream:
        stream.write(layers_csv(report).encode())


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            found[key] = " ".join(value) if isinstance(value, list) else value
    return found
