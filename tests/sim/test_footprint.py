"""Footprints against loops that visit every byte, as the instruction table's text says."""

import itertools
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import Arch
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, decode, instruction
from systol_sim.footprint import (
    ACCUMULATORS,
    UB,
    WEIGHT,
    WINDOW,
    Region,
    box,
    footprint,
    merge_intervals,
)
from systol_sim.generate import generate
from systol_sim.machines import FUZZ_MACHINES

Places = set[tuple[int, int]]


def _loops(item: Instruction, *names: str) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(item[name]) for name in names))


def _bytes(space: int, first: int, count: int) -> Places:
    return {(space, (first + b) % (1 << 32)) for b in range(count)}


def _visit(item: Instruction, arch: Arch) -> tuple[Places, Places]:
    """(reads, writes) of `item`, one access after another."""
    if item.unit in (Unit.LOAD, Unit.STORE):
        return _visit_transfer(item)
    if item.unit is Unit.WEIGHTS:
        return _visit_tiles(item, arch), set()
    if item.unit is Unit.MATRIX:
        return _visit_matmul(item, arch)
    if item.unit is Unit.VECTOR:
        return _visit_vector(item, arch)
    return set(), set()


def _visit_transfer(item: Instruction) -> tuple[Places, Places]:
    memory: Places = set()
    buffer: Places = set()
    space = WINDOW + item["window"] if "window" in item.fields else WEIGHT
    for i, j in _loops(item, "count1", "count0"):
        there = item["memory_address"] + i * item["memory_stride1"] + j * item["memory_stride0"]
        here = item["ub_address"] + i * item["ub_stride1"] + j * item["ub_stride0"]
        memory |= _bytes(space, there, item["run_bytes"])
        buffer |= _bytes(UB, here, item["run_bytes"])
    return (memory, buffer) if item.unit is Unit.LOAD else (buffer, memory)


def _visit_tiles(item: Instruction, arch: Arch) -> Places:
    reads: Places = set()
    for n, outer, inner in _loops(item, "n_count", "outer_count", "inner_count"):
        n_live = item["n_last"] if n == item["n_count"] - 1 else arch.columns
        k_live = item["k_last"] if inner == item["inner_count"] - 1 else arch.rows
        first = item["address"] + n * item["n_stride"] + outer * item["outer_stride"]
        first += inner * item["inner_stride"]
        for row in range(k_live):
            reads |= _bytes(WEIGHT, first + row * item["row_pitch"], n_live)
    return reads


def _visit_matmul(item: Instruction, arch: Arch) -> tuple[Places, Places]:
    reads: Places = set()
    writes: Places = set()
    loops = ("n_count", "k0_count", "k1_count", "k2_count", "y_count", "x_count")
    for n, k0, k1, k2, y, x in _loops(item, *loops):
        live = item["k_last"] if k2 == item["k2_count"] - 1 else arch.rows
        along = n * item["n_step"] + k1 * item["k1_step"] + k2 * item["k2_step"]
        along += x * item["x_step"]
        across = k0 * item["k0_address_step"] + y * item["y_address_step"]
        line = item["y_start"] + k0 * item["k0_step"] + y * item["y_step"]
        for b in range(live):
            inside = 0 <= item["p_start"] + along + b < item["p_limit"]
            if inside and 0 <= line < item["y_limit"]:
                reads |= _bytes(UB, item["ub_address"] + along + across + b, 1)
        row = item["acc_address"] + n * item["acc_n_step"] + y * item["x_count"] + x
        writes.add((ACCUMULATORS, row))
        if item["accumulate"]:
            reads.add((ACCUMULATORS, row))
    return reads, writes


def _visit_vector(item: Instruction, arch: Arch) -> tuple[Places, Places]:
    reads: Places = set()
    writes: Places = set()
    for n, y, x in _loops(item, "n_count", "y_count", "x_count"):
        live = item["n_last"] if n == item["n_count"] - 1 else arch.columns
        out = item["out_address"] + n * item["out_n_step"]
        writes |= _bytes(UB, out + y * item["out_y_step"] + x * item["out_x_step"], live)
        if item.operation.name == "fill":
            continue
        if item.operation.name == "requantize":
            reads |= _bytes(UB, item["parameter_address"] + 8 * arch.columns * n, 8 * live)
        for ky, kx in _loops(item, "ky_count", "kx_count"):
            line = item["y_start"] + y * item["y_step"] + ky * item["ky_step"]
            column = item["x_start"] + x * item["x_step"] + kx * item["kx_step"]
            if not (0 <= line < item["y_limit"] and 0 <= column < item["x_limit"]):
                continue
            place = item["a_address"] + n * item["a_n_step"] + y * item["a_y_step"]
            place += x * item["a_x_step"] + ky * item["a_ky_step"] + kx * item["a_kx_step"]
            if item["source_ub"]:
                reads |= _bytes(UB, place, live)
            else:
                reads.add((ACCUMULATORS, place % (1 << 32)))
    return reads, writes


def _places(regions: tuple[Region, ...]) -> Places:
    return {(region.space, int(place)) for region in regions for place in region.places()}


@given(st.integers(0, 10_000), st.sampled_from(FUZZ_MACHINES))
def test_footprint_is_what_the_loops_visit(seed: int, arch: Arch) -> None:
    for row in generate(arch, seed, instructions=12).program.code:
        item = decode(row.tobytes())
        found = footprint(item, arch)
        assert (_places(found.reads), _places(found.writes)) == _visit(item, arch), item


def test_addresses_wrap_at_32_bits() -> None:
    item = instruction(
        "read_host", memory_address=(1 << 32) - 4, run_bytes=2, count0=3, memory_stride0=2
    )
    (memory,) = footprint(item, FUZZ_MACHINES[0]).reads
    assert memory.last == (1 << 32) + 1, "a run that crosses the end is kept whole, outside"
    item = instruction("matmul", ub_address=-3, p_start=-3, p_limit=5, k_last=8)
    (buffer,) = footprint(item, FUZZ_MACHINES[0]).reads
    assert (buffer.first, buffer.last) == (0, 4)


@given(
    st.integers(-50, 50),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 5), st.integers(-20, 20)), max_size=4),
)
def test_box_is_the_union_of_its_runs(
    base: int, length: int, loops: list[tuple[int, int]]
) -> None:
    expected = set()
    for turns in itertools.product(*(range(count) for count, _ in loops)):
        first = base + sum(t * stride for t, (_, stride) in zip(turns, loops, strict=True))
        expected |= set(range(first, first + length))
    starts, ends = box(base, length, loops)
    found = [place for a, b in zip(starts, ends, strict=True) for place in range(a, b)]
    assert found == sorted(expected)
    assert (starts[1:] > ends[:-1]).all(), "intervals must be disjoint and not touch"


_INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=8)


def _region(pieces: list[tuple[int, int]]) -> Region:
    starts = np.array([start for start, _ in pieces])
    merged = merge_intervals(starts, starts + np.array([length for _, length in pieces]))
    return Region(space=UB, starts=merged[0], ends=merged[1])


@given(_INTERVALS, _INTERVALS, st.integers(0, 70), st.integers(0, 70))
def test_regions_behave_as_sets(
    a: list[tuple[int, int]], b: list[tuple[int, int]], low: int, high: int
) -> None:
    left, right = _region(a), _region(b)
    left_set, right_set = set(left.places().tolist()), set(right.places().tolist())
    assert left.size == len(left_set)
    assert left.overlap(right) == min(left_set & right_set, default=None)
    clipped = left.clip(low, high)
    kept = set() if clipped is None else set(clipped.places().tolist())
    assert kept == {
        place for place in left_set if low <= place < high
    }
