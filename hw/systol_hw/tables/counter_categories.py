"""How the array's cycles are read: the categories of Table 3 of the TPU paper.

Every cycle belongs to exactly one category, by the MATRIX unit's state in it. The causes explain
the cycles without matrix work in part, as the paper's do.

Ref: N. P. Jouppi et al., "In-Datacenter Performance Analysis of a Tensor Processing Unit", ISCA
2017, Table 3.
"""

from dataclasses import dataclass

from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit


@dataclass(frozen=True, kw_only=True)
class Category:
    """A named sum of MATRIX states; `paper` is the row of Table 3."""

    name: str
    title: str
    states: tuple[str, ...]
    paper: str


_ACTIVE = Category(
    name="active", title="array active", states=("busy",), paper="Array active cycles"
)
_WEIGHT_STALL = Category(
    name="weight_stall", title="weight stall", states=("wait_tile",), paper="Weight stall cycles"
)
_WEIGHT_SHIFT = Category(
    name="weight_shift", title="weight shift", states=("wait_shift",), paper="Weight shift cycles"
)
_NAMED = (_ACTIVE, _WEIGHT_STALL, _WEIGHT_SHIFT)
_NON_MATRIX = Category(
    name="non_matrix",
    title="non-matrix",
    states=tuple(
        state.name
        for state in UNIT_STATES[Unit.MATRIX]
        if all(state.name not in category.states for category in _NAMED)
    ),
    paper="Non-matrix cycles",
)

CATEGORIES: tuple[Category, ...] = (*_NAMED, _NON_MATRIX)
"""Every MATRIX state is in exactly one, so the categories sum to the run's cycles."""

STALL_CAUSES: tuple[Category, ...] = (
    Category(
        name="raw_stalls",
        title="RAW stalls",
        states=("wait_vector", "wait_drain"),
        paper="RAW stalls",
    ),
    Category(
        name="input_stalls",
        title="input data stalls",
        states=("wait_load", "wait_bank"),
        paper="Input data stalls",
    ),
)
"""Reasons among the non-matrix cycles."""
