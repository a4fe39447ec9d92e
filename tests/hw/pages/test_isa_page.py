"""The generated reference pages say everything that the tables say."""

import re

from systol_hw.isa.operations import OPERATIONS
from systol_hw.pages.counters import counter_names, counters_page
from systol_hw.pages.isa import isa_page
from systol_hw.tables.faults import FaultCause


def test_every_operation_has_a_section_with_all_its_fields() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^###? )", isa_page(), re.M | re.S))
    assert list(sections) == [operation.name for operation in OPERATIONS]
    for operation in OPERATIONS:
        text = sections[operation.name]
        assert f"`{operation.opcode:#04x}`" in text and operation.tpu_v1 in text
        assert ("Not built yet" in text) is not operation.supported
        rows = re.findall(r"^\| `(\w+)` \| (\d+)\.\.(\d+) \|", text, re.M)
        expected = [
            (field.name, str(field.lsb), str(field.lsb + field.width - 1))
            for field in operation.fields
            if field.name not in ("wait", "signal", "drain")
        ]
        assert rows == expected


def test_every_fault_is_explained() -> None:
    for cause in FaultCause:
        row = re.search(rf"^\| {cause.value} \| `{cause.name}` \| (.*) \|$", isa_page(), re.M)
        assert row is not None and row[1].endswith(".")


def test_bounds_are_written_as_people_write_them() -> None:
    text = isa_page()
    assert "| `memory_address` | 19..50 | unsigned | 0..2^32-1 |" in text
    assert "| -2^31..2^31-1 |" in text
    assert "| 1..`rows` |" in text


def test_every_counter_is_listed_with_what_pins_it() -> None:
    text = counters_page({"matrix.wait_tile": ["7", "`test_x::test_y`"]})
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert "| 7, `test_x::test_y` |" in next(row for row in rows if "`wait_tile` | 12" in row)
    for name in counter_names():
        _, dot, state = name.partition(".")
        assert any(f"`{name}`" in row or (dot and f"`{state}`" in row) for row in rows)
