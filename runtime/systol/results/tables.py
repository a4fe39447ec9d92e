"""The rows of the tables that commands print, from reports (`systol.results.report`)."""

from collections.abc import Mapping
from typing import Any

from systol_hw.tables.counter_categories import CATEGORIES, STALL_CAUSES

Row = tuple[str, ...]
Table = tuple[Row, list[Row]]
"""A row of headings, and rows."""


def number(value: float) -> str:
    """A count with thousands separators, or a fraction with four digits that count."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """`0.1234` as `12.3 %`."""
    return f"{100 * share:.1f} %"


def summary_rows(report: Mapping[str, Any]) -> list[Row]:
    """What a report says in a few lines."""
    clock = report["arch"]["clock_hz"] / 1e6
    return [
        ("machine", report["arch"]["name"]),
        ("backend", report["backend"]),
        ("images", _images(report)),
        ("cycles", number(report["cycles"])),
        ("cycles per image", number(report["cycles_per_image"])),
        (f"images per second at {clock:g} MHz", number(report["images_per_second"])),
        ("useful MACs, of the array's peak", percent(report["useful_mac_share"])),
    ]


def _images(report: Mapping[str, Any]) -> str:
    if not report["filled"]:
        return number(report["images"])
    return (
        f"{number(report['images'])}, and {number(report['filled'])} copies that fill the last "
        "run (all counters count them)"
    )


def category_rows(report: Mapping[str, Any]) -> list[Row]:
    """Where the array's cycles went, by Table 3's categories."""
    cycles = report["cycles"]
    named, causes = report["array"]["categories"], report["array"]["non_matrix_causes"]
    rows: list[Row] = [
        (category.title, number(named[category.name]), percent(named[category.name] / cycles))
        for category in CATEGORIES
    ]
    rows += [
        (f"  {cause.title}", number(causes[cause.name]), percent(causes[cause.name] / cycles))
        for cause in STALL_CAUSES
    ]
    rows.append(("all", number(cycles), percent(1)))
    return rows


def unit_rows(report: Mapping[str, Any]) -> list[Row]:
    """Each unit: busy, waiting (all causes), in flight, idle; and the greatest cause of waiting."""
    rows: list[Row] = []
    for name, unit in report["units"].items():
        states = unit["states"]
        waits = {s: v for s, v in states.items() if s.startswith(("wait_", "full_"))}
        worst = max(waits, key=lambda state: waits[state])
        cause = f"{worst} {percent(waits[worst] / report['cycles'])}" if waits[worst] else "-"
        rows.append(
            (
                name,
                percent(states["busy"] / report["cycles"]),
                percent(sum(waits.values()) / report["cycles"]),
                percent(states.get("idle", 0) / report["cycles"]),
                cause,
            )
        )
    return rows


UNIT_HEADINGS = ("unit", "busy", "waiting", "idle", "most for")
CATEGORY_HEADINGS = ("the array's cycles", "cycles", "share")


def amount_rows(report: Mapping[str, Any]) -> list[Row]:
    """Bytes, operations and elements that are not zero."""
    return [
        (f"{unit}.{name}", number(amount["value"]), amount["measure"])
        for unit, values in report["units"].items()
        for name, amount in values["amounts"].items()
        if amount["value"]
    ]


def layer_rows(report: Mapping[str, Any]) -> list[Row]:
    """Each layer in one run: cycles and bound, the array's cycles, bytes by port."""
    rows: list[Row] = []
    for entry in report["layers"]:
        host = entry["bytes"]["host_read"] + entry["bytes"]["host_written"]
        weight = sum(entry["bytes"].values()) - host
        rows.append(
            (
                entry["layer"] or "(no layer)",
                number(entry["cycles"]),
                number(entry["bound_cycles"]),
                entry["bound_by"] or "-",
                *(number(entry["array"][category.name]) for category in CATEGORIES),
                number(entry["busy"]["vector"]),
                number(entry["useful_macs"]),
                number(weight),
                number(host),
            )
        )
    return rows


LAYER_HEADINGS = (
    "layer, one run", "cycles", "bound", "bound by",
    *(category.title for category in CATEGORIES),
    "vector busy", "useful MACs", "weight port bytes", "host port bytes",
)  # fmt: skip


def sections(report: Mapping[str, Any]) -> list[Table]:
    """All tables of a report that have rows: headings and rows."""
    found = (
        (("run", ""), summary_rows(report)),
        (CATEGORY_HEADINGS, category_rows(report)),
        (UNIT_HEADINGS, unit_rows(report)),
        (LAYER_HEADINGS, layer_rows(report)),
        (("amount", "value", ""), amount_rows(report)),
    )
    return [(headings, rows) for headings, rows in found if rows]
