"""Repetitions."""

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import lowered
from systol_hw.arch import PRESETS


@pytest.mark.parametrize(("op", "shape", "counts"), [
    ("Expand", (3, 1), (2, 3, 4)), ("Expand", (3, 4), (1, 1)), ("Expand", (1,), (5, 70)),
    ("Tile", (3, 4), (2, 3)), ("Tile", (1, 4), (5, 1)), ("Tile", (2, 3, 40), (1, 2, 2)),
])
@pytest.mark.parametrize("widths", [8, 16])
def test_repetitions(
    op: str, shape: tuple[int, ...], counts: tuple[int, ...], widths: int
) -> None:
    case = Case(op=op, inputs=(shape, np.array(counts, np.int64)), widths=widths)
    assert case.check(0.0).kinds == ["tile"]


def test_what_has_size_1_is_repeated_by_a_view() -> None:
    case = Case(op="Expand", inputs=((3, 1, 64), np.array([3, 5, 64], np.int64)))
    (network,) = lowered(case.check(0.0).graph, PRESETS["edge32"])
    assert [nest.layer for nest in network.nests] == ["y0.output"]
