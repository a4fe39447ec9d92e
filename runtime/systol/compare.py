"""Counter reports side by side: executors, machines or models."""

from collections.abc import Mapping, Sequence
from typing import Any

from systol_hw.errors import InputError
from systol_hw.shown import shown

_DEEPEST = 12
_SKIP = ("schema", "systol", "fingerprint", "layers", "measure")


def flatten(report: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of a report under a dotted name, such as `units.matrix.states.busy`."""
    result: dict[str, Any] = {}

    def visit(prefix: str, value: Any, depth: int) -> None:
        if isinstance(value, Mapping) and "value" in value:
            value = value["value"]
        if isinstance(value, Mapping):
            if depth == _DEEPEST:
                raise InputError(
                    f"no counter report is nested as deeply as {shown(prefix)}; make one with "
                    "`systol run ... --counters FILE`"
                )
            for key, item in value.items():
                if key not in _SKIP:
                    visit(f"{prefix}.{key}" if prefix else key, item, depth + 1)
        elif not isinstance(value, list):
            result[prefix] = value

    visit("", report, 0)
    return result


def compare(
    reports: Sequence[Mapping[str, Any]], *, differences_only: bool = False
) -> list[tuple[str, list[Any]]]:
    """Rows of a figure's name and its value in each report; None where a report has none.

    Rows that are zero or missing everywhere are left out, and parameters of the machine that are
    equal; with `differences_only`, all equal rows.
    """
    flat = [flatten(report) for report in reports]
    names = list(dict.fromkeys(name for values in flat for name in values))
    rows = []
    for name in names:
        values = [item.get(name) for item in flat]
        if all(value in (None, 0) for value in values):
            continue
        equal = all(value == values[0] for value in values)
        parameter = name.startswith("arch.") and name != "arch.name"
        if equal and (differences_only or parameter):
            continue
        rows.append((name, values))
    return rows


def unfair(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Sentences on what makes figures of `reports`, called `names`, no fair comparison: other
    batches, and runs that copies filled up. Values of another type than a report has say nothing.
    """
    found = []
    batches = [report.get("batch") for report in reports]
    if len({batch for batch in batches if isinstance(batch, int)}) > 1:
        sizes = ", ".join(f"{n}: {shown(b)}" for n, b in zip(names, batches, strict=True))
        found.append(
            f"batches differ ({sizes}): larger ones read weights less often; compile for one batch"
        )
    for name, report in zip(names, reports, strict=True):
        filled, items = report.get("filled"), report.get("images")
        if isinstance(filled, int) and isinstance(items, int) and filled > 0:
            found.append(
                f"{name}: its last run was filled up with {filled} copies beside {items} images "
                "that were given; cycles and useful MACs count them"
            )
    return found
