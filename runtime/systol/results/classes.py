"""What a classifier says, in words: the greatest values of outputs whose places have names."""

import numpy as np

from systol.results.record import RunRecord
from systol.results.tables import Table

BEST = 3
"""Classes shown of each item."""
_ITEMS_MOST = 20


def best_classes(result: RunRecord, count: int = BEST) -> dict[str, list[list[tuple[str, float]]]]:
    """By output that has labels: for each item its `count` greatest values, named, descending."""
    found: dict[str, list[list[tuple[str, float]]]] = {}
    for output in result.model.outputs:
        if not output.labels or output.name not in result.outputs:
            continue
        values = result.outputs[output.name].reshape(-1, len(output.labels))
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
        found[output.name] = [
            [(output.labels[place], float(row[place])) for place in places]
            for row, places in zip(values, order, strict=True)
        ]
    return found


def class_sections(result: RunRecord) -> list[Table]:
    """The same as tables: an item a row, the first twenty of them."""
    return [
        (
            (f"item of {name}", *["class", "value"] * len(items[0])),
            [
                (str(number), *(text for best in item for text in (best[0], f"{best[1]:.4g}")))
                for number, item in enumerate(items[:_ITEMS_MOST])
            ],
        )
        for name, items in best_classes(result).items()
        if items
    ]
