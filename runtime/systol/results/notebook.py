"""Results as HTML, which is what a notebook shows of the last value of a cell."""

from collections.abc import Sequence
from html import escape

from systol.results import tables
from systol.results.record import RunRecord
from systol.results.report import make_report


def result_html(result: RunRecord) -> str:
    """Outputs and, from a backend that counts cycles, the tables that `systol run` prints."""
    outputs = [
        (name, value.dtype.name, " x ".join(str(size) for size in value.shape))
        for name, value in result.outputs.items()
    ]
    parts = [f"<p><b>warning</b>: {escape(text)}</p>" for text in result.warnings]
    parts += [_table(("output", "type", "shape"), outputs)] if outputs else []
    if any(run.counters is not None for run in result.segments):
        parts += [_table(*section) for section in tables.sections(make_report(result))]
    return "".join(parts)


def _table(headings: Sequence[str], rows: Sequence[tables.Row]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = (
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
