"""Generates docs/counters.md from the counter table and the categories."""

from collections.abc import Mapping, Sequence

from systol_hw.arch import TAGS
from systol_hw.pages.isa import markdown_table
from systol_hw.tables.counter_categories import CATEGORIES, STALL_CAUSES, Category
from systol_hw.tables.counters import AMOUNTS, COUNTER_BITS, SCALAR_GROUP, SCALARS, UNIT_STATES
from systol_hw.tables.faults import Unit

Pins = Mapping[str, Sequence[str]]
"""Names of the micro-programs and tests that pin each counter, by `unit.name` or scalar name."""

INTRODUCTION = f"""\
# Performance counters

<!-- Generated from hw/systol_hw by `python -m systol.docs_check --write`: do not edit. -->

Every cycle each unit is in exactly one *state* and adds 1 to that state's counter, so a unit's
states sum to the run's cycles. *Amounts* add bytes, operations or elements. Both are kept under one
of {TAGS} debug tags (the `tag` instruction), which is how counters are read per layer. *Scalars*
belong to the whole run. Counters are {COUNTER_BITS} bits wide and wrap. [timing.md](timing.md),
section 8, fixes the cycle in which each one counts; the simulator and the RTL give equal numbers in
all of them, and random programs compare every one (`systol fuzz`).

*Pinned by* names what fixes a figure besides that comparison: some of the hand-derived
[micro-programs](microprograms.md), by number, that expect another value than zero, and every test
that is marked as asserting the value (`pytest.mark.pins`).

"""

STATE_TEXT = """\
## States

Unit: cycles. Formula: the number of cycles in 0 .. `cycles` - 1 in which the unit is as the row
says and no earlier test of [timing.md](timing.md), 8.1, holds; under a tag, those of them that 8.2
charges to it.

"""

CATEGORY_TEXT = """\
## Categories

The rows of Table 3 of the TPU paper, from the states of MATRIX. The first four sum to `cycles`; the
causes explain a part of the non-matrix cycles.

Ref: N. P. Jouppi et al., "In-Datacenter Performance Analysis of a Tensor Processing Unit", ISCA
2017, Table 3.

"""

DERIVED_TEXT = """\

## Figures of a report

`systol run --counters` and `systol.make_report` give JSON of schema `systol.counters/2`.

| figure | unit | formula |
| --- | --- | --- |
| `cycles` | cycles | sum over machine segments and runs |
| `segments` | cycles | the same by machine segment |
| `filled` | items | copies that filled the last run up: counted by all counters, and in no \
figure by image |
| `cycles_per_image` | cycles | `cycles / images` |
| `seconds` | seconds | `cycles / clock_hz` of the machine |
| `images_per_second` | 1/s | `images / seconds` |
| `useful_mac_share` | share | `matrix.useful_macs / (cycles * rows * columns)` |
| `array.categories`, `array.non_matrix_causes` | cycles | the table above |
| `layers` | | by layer, of one run of its segment: the table below |
| `tags` | | by debug tag, all states and amounts, as the backend counted them |
| `host_seconds` | seconds | time in host segments on this computer; no part of the others |
| `warnings` | | sentences: inputs outside the calibrated range |

Over several runs, states, amounts, `cycles` and `late_cycles` add up; peaks are maxima.

A machine has 16 debug tags and a network may have a thousand layers. But time depends neither on
data nor on tags, so that the simulator can count by more tags than there are: `layers` are the
counters of a machine with a tag for each, whichever backend ran. The last entry of each segment,
with the name `""`, holds what belongs to no layer.

| figure of a layer | unit | formula |
| --- | --- | --- |
| `cycles` | cycles | by how much its last instruction ends later than everything before it; they \
sum to the segment's cycles |
| `first_cycle`, `last_cycle` | cycle | start of its first instruction, end of its last |
| `array`, `causes` | cycles | the categories above, under its tag; cycles in which MATRIX has \
nothing are no layer's |
| `busy` | cycles | `busy` of each unit under its tag |
| `bytes` | bytes | `host_read`, `host_written`: host port; `weights`, `loaded`, `spilled`, \
`instructions`: weight port |
| `useful_macs`, `padding_macs`, `elements` | | the amounts of these names |
| `bound_cycles`, `bound_by` | cycles | the greatest of: rows that enter the array, cycles of \
VECTOR, bytes of a port over its bandwidth |
"""


def counters_page(pins: Pins) -> str:
    """The text of docs/counters.md."""
    return INTRODUCTION + _categories() + _states(pins) + _amounts(pins) + _scalars(pins) + (
        DERIVED_TEXT
    )


def _categories() -> str:
    def rows(categories: Sequence[Category]) -> list[tuple[str, ...]]:
        return [
            (f"`{c.name}`", c.paper, " + ".join(f"`{state}`" for state in c.states))
            for c in categories
        ]

    table = markdown_table(
        ("category", "Table 3", "states of MATRIX"), rows(CATEGORIES) + rows(STALL_CAUSES)
    )
    return f"{CATEGORY_TEXT}{table}\n"


def _states(pins: Pins) -> str:
    text = STATE_TEXT
    for unit, states in UNIT_STATES.items():
        rows = [
            (f"`{s.name}`", str(s.code), s.doc, _pins(pins, f"{unit.name.lower()}.{s.name}"))
            for s in states
        ]
        table = markdown_table(("state", "code", "the unit", "pinned by"), rows)
        text += f"### {unit.name} (group {int(unit)})\n\n{table}\n"
    return text


def _amounts(pins: Pins) -> str:
    rows = [
        (
            f"`{a.unit.name.lower()}.{a.name}`",
            str(a.group),
            a.measure,
            a.doc + (" (needs values)" if a.depends_on_values else ""),
            a.formula.replace("*", "\\*"),
            _pins(pins, f"{a.unit.name.lower()}.{a.name}"),
        )
        for a in AMOUNTS
    ]
    headings = ("amount", "group", "unit", "sum of", "formula, for an instruction", "pinned by")
    table = markdown_table(headings, rows)
    return f"## Amounts\n\n{table}\n"


def _scalars(pins: Pins) -> str:
    rows = [
        (f"`{s.name}`", str(s.index), s.measure, s.doc, s.formula, _pins(pins, s.name))
        for s in SCALARS
    ]
    table = markdown_table(("scalar", "index", "unit", "meaning", "formula", "pinned by"), rows)
    return f"## Scalars (group {SCALAR_GROUP})\n\n{table}"


def _pins(pins: Pins, name: str) -> str:
    return ", ".join(pins.get(name, ())) or "comparison"


def counter_names() -> tuple[str, ...]:
    """Every counter's name: `unit.state`, `unit.amount`, or a scalar's own."""
    units = [
        f"{unit.name.lower()}.{state.name}" for unit in Unit for state in UNIT_STATES[unit]
    ]
    amounts = [f"{amount.unit.name.lower()}.{amount.name}" for amount in AMOUNTS]
    return (*units, *amounts, *(scalar.name for scalar in SCALARS))
