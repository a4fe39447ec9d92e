"""What counters of a run must be, worked out from the program alone.

Each unit is in one state in each cycle, the array's categories sum to the cycles, and amounts that
do not depend on data are products of shapes (docs/timing.md, 8).
"""

from collections import deque

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, TAGS, Arch
from systol_hw.isa import Instruction, decode
from systol_hw.program import Program
from systol_hw.tables.counter_categories import CATEGORIES
from systol_hw.tables.counters import AMOUNTS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.results import Counters, RunResult

_ROW = {(amount.unit, amount.name): index for index, amount in enumerate(AMOUNTS)}
_FETCH = _ROW[Unit.CONTROL, "fetch_bytes"]
_SHAPED = sorted(
    _ROW[unit, name] for unit, names in {
        Unit.LOAD: ("host_bytes", "weight_bytes"), Unit.STORE: ("host_bytes", "weight_bytes"),
        Unit.WEIGHTS: ("weight_bytes", "ub_bytes"), Unit.MATRIX: ("useful_macs",),
        Unit.VECTOR: ("elements",),
    }.items() for name in names
)
"""The amounts that `shape_products` gives."""
_CODES = {state.name: state.code for state in UNIT_STATES[Unit.MATRIX]}
_CATEGORY_CODES = [
    (category.name, [_CODES[name] for name in category.states]) for category in CATEGORIES
]


def broken_expectations(program: Program, result: RunResult) -> list[str]:
    """One line for each sum or product that `result` contradicts; empty for a sound one."""
    counters = result.counters
    if counters is None:
        return []
    lines = _sums(counters)
    if result.fault is None:
        expected = shape_products(program)
        found = counters.amounts
        lines += [
            f"{AMOUNTS[index].unit.name.lower()}.{AMOUNTS[index].name} tag {tag}: "
            f"{found[index, tag]} is not the shapes' {expected[index, tag]}"
            for index in _SHAPED
            for tag in np.flatnonzero(found[index] != expected[index])
        ]
        fetched, size = int(found[_FETCH].sum()), INSTRUCTION_BYTES * len(program.code)
        if fetched != size:
            lines.append(f"control.fetch_bytes: {fetched} of a program of {size}")
    return lines


def _sums(counters: Counters) -> list[str]:
    cycles, states = counters.cycles, counters.states.sum(axis=1)
    lines = [
        f"states of {unit.name.lower()} sum to {states[unit].sum()} of {cycles} cycles"
        for unit in Unit
        if states[unit].sum() != cycles
    ]
    matrix = states[Unit.MATRIX]
    total = sum(int(matrix[codes].sum()) for _, codes in _CATEGORY_CODES)
    if total != cycles:
        lines.append(f"the array's categories sum to {total} of {cycles} cycles")
    return lines


def shape_products(program: Program) -> np.ndarray:
    """Amounts of a valid program that halts, as far as shapes tell: int64 (len(AMOUNTS), tags).

    Fetched and padded amounts, which tags and windows divide, and those that depend on values stay
    zero.
    """
    amounts = np.zeros((len(AMOUNTS), TAGS), np.int64)
    tiles: deque[int] = deque()
    tag = 0
    for row in program.code:
        item = decode(row.tobytes())
        name, unit = item.operation.name, item.unit
        if name == "tag":
            tag = item["tag"]
        elif unit is Unit.LOAD or unit is Unit.STORE:
            kind = "weight_bytes" if name.endswith("weight_memory") else "host_bytes"
            size = item["run_bytes"] * item["count0"] * item["count1"]
            amounts[_ROW[unit, kind], tag] += size
        elif unit is Unit.WEIGHTS:
            kind = "ub_bytes" if name.endswith("ub") else "weight_bytes"
            columns = _tile_columns(item, program.arch)
            rows = _reduction(item["inner_count"], item["k_last"], program.arch)
            amounts[_ROW[unit, kind], tag] += sum(columns) * item["outer_count"] * rows
            steps = item["outer_count"] * item["inner_count"]
            for live in columns:
                tiles.extend([live] * steps)
        elif unit is Unit.MATRIX:
            amounts[_ROW[unit, "useful_macs"], tag] += _macs(item, tiles, program.arch)
        elif unit is Unit.VECTOR:
            rows = item["y_count"] * item["x_count"]
            amounts[_ROW[unit, "elements"], tag] += rows * sum(_tile_columns(item, program.arch))
    return amounts


def _tile_columns(item: Instruction, arch: Arch) -> list[int]:
    """Live columns of each column tile or channel group."""
    return [arch.columns] * (item["n_count"] - 1) + [item["n_last"]]


def _reduction(steps: int, last: int, arch: Arch) -> int:
    """Live rows of all steps of the inner reduction loop."""
    return (steps - 1) * arch.rows + last


def _macs(item: Instruction, tiles: deque[int], arch: Arch) -> int:
    """Useful MACs of a matmul, which takes its tiles' live columns from `tiles`."""
    total = 0
    for _ in range(item["n_count"] * item["k0_count"] * item["k1_count"]):
        for step in range(item["k2_count"]):
            live = item["k_last"] if step == item["k2_count"] - 1 else arch.rows
            total += live * tiles.popleft()
    return total * item["y_count"] * item["x_count"]
