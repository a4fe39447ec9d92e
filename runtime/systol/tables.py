"""The rows of the tables that commands print, from reports (`systol.report`)."""

from collections.abc import Mapping
from typing import Any

from systol_hw.counter_categories import CATEGORIES, STALL_CAUSES

Row = tuple[str, ...]


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
        ("images", number(report["images"])),
        ("cycles", number(report["cycles"])),
        ("cycles per image", number(report["cycles_per_image"])),
        (f"images per second at {clock:g} MHz", number(report["images_per_second"])),
        ("useful MACs, of the array's peak", percent(report["useful_mac_share"])),
    ]


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
    """Each debug tag: its layers, and the cycles and MACs charged to it in the matrix unit."""
    rows: list[Row] = []
    for entry in report["layers"]:
        matrix, vector = entry["units"]["matrix"], entry["units"]["vector"]
        macs = matrix["amounts"].get("useful_macs", {"value": 0})["value"]
        busy = matrix["states"]["busy"]
        if not (busy or vector["states"]["busy"]):
            continue
        label = ", ".join(entry["layers"]) or f"tag {entry['tag']}"
        rows.append(
            (
                label,
                number(busy),
                number(matrix["states"]["wait_tile"] + matrix["states"]["wait_shift"]),
                number(vector["states"]["busy"]),
                number(macs),
            )
        )
    return rows


LAYER_HEADINGS = ("layer", "array active", "weight waits", "vector busy", "useful MACs")


def sections(report: Mapping[str, Any]) -> list[tuple[tuple[str, ...], list[Row]]]:
    """All tables of a report that have rows: headings and rows."""
    found = (
        (("run", ""), summary_rows(report)),
        (CATEGORY_HEADINGS, category_rows(report)),
        (UNIT_HEADINGS, unit_rows(report)),
        (LAYER_HEADINGS, layer_rows(report)),
        (("amount", "value", ""), amount_rows(report)),
    )
    return [(headings, rows) for headings, rows in found if rows]
