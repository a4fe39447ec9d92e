"""The tables that `systol compile` and `systol inspect` print, from their JSON values."""

from collections.abc import Mapping, Sequence
from typing import Any

from systol.results.tables import LAYER_HEADINGS, Row, Table, layer_rows, number, percent

NODE_HEADINGS = ("node", "operator", "place", "MACs", "bytes", "why")
CROSSING_HEADINGS = ("crossing", "to", "elements")
_NODES_MOST = 60


def compile_sections(report: Mapping[str, Any]) -> list[Table]:
    """Tables of a compile report: cycles by layer, what runs on the host and why, crossings."""
    if "summary" not in report:
        return []
    host = [row for row in report["nodes"] if row["place"] != "machine"]
    found: list[Table] = [
        (LAYER_HEADINGS, [*layer_rows(report), _total(report)]),
        (("on the host", "why"), [(row["node"], row["reason"]) for row in host[:_NODES_MOST]]),
        (
            ("crossing", "to", "elements"),
            [(c["tensor"], c["to"], number(c["elements"])) for c in report["crossings"]],
        ),
    ]
    return [(headings, rows) for headings, rows in found if rows]


def _total(report: Mapping[str, Any]) -> Row:
    summary, layers = report["summary"], report["layers"]
    rest = [""] * (len(LAYER_HEADINGS) - 4)
    if layers:
        rest[-3] = number(summary["useful_macs"])
    share = f"array {percent(summary['useful_mac_share'])} of peak"
    return ("all", number(summary["cycles"]), number(summary["bound_cycles"]), share, *rest)


def inspection_sections(values: Mapping[str, Any], *, all_nodes: bool) -> list[Table]:
    """Tables of an inspection: the summary, nodes (those on the machine only with `all_nodes`),
    crossings."""
    summary = values["summary"]
    rows = [
        row for row in values["nodes"] if all_nodes or row["place"] not in ("machine", "folded")
    ]
    found: list[Table] = [
        (("model", str(values["model"])), _summary(summary)),
        (NODE_HEADINGS, [_node(row) for row in rows]),
        (
            CROSSING_HEADINGS,
            [(c["tensor"], c["to"], number(c["elements"])) for c in values.get("crossings", ())],
        ),
    ]
    return [(headings, rows) for headings, rows in found if rows]


def _summary(summary: Mapping[str, Any]) -> list[Row]:
    names: Sequence[tuple[str, str]] = (
        ("machine", "nodes on the machine"),
        ("host", "nodes on the host"),
        ("folded", "nodes done at compile time"),
        ("refused", "nodes refused"),
        ("open", "nodes not placed"),
        ("machine_macs", "MACs on the machine"),
        ("host_macs", "MACs on the host"),
        ("segments", "segments"),
        ("crossings", "crossings"),
        ("least_cycles", "least cycles of the products"),
    )
    return [
        (title, number(summary[name]))
        for name, title in names
        if name in summary and (summary[name] or name in ("machine", "host"))
    ]


def _node(row: Mapping[str, Any]) -> Row:
    why = row["reason"] + (f"; {row['remedy']}" if row.get("remedy") else "")
    return (
        row["node"], row["operator"], row["place"], number(row["macs"]), number(row["bytes"]), why,
    )  # fmt: skip
