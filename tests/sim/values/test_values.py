"""The fast values in large shapes: against the reference, and each short cut against none."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program
from systol_sim import reference
from systol_sim.values import matrix_plan, matrix_values
from systol_sim.values.program_values import Values, compute_values

EDGE32 = PRESETS["edge32"]
WIDE = dataclasses.replace(
    PRESETS["nano"], name="wide", ub_bytes=1 << 16, accumulator_rows=512, weight_fifo_tiles=16
)


def _program(arch: Arch, items: list[Instruction], weights: np.ndarray, size: int) -> Program:
    """`items` one after another, after a load of the whole window."""
    load = instruction("read_host", run_bytes=size)
    ordered: list[Instruction] = [load, instruction("barrier")]
    for item in items:
        ordered.append(item)
        if item.operation.name not in ("read_weights", "read_weights_ub"):
            ordered.append(instruction("barrier"))
    return make_program(
        arch, [*ordered, instruction("halt")], weight_image=weights.view(np.uint8),
        spare_weight_bytes=4096, windows=(Window(name="in", size_bytes=size),),
    )


def _values(program: Program, content: np.ndarray, *, stepwise: bool = False) -> Values:
    return compute_values(
        program, program.initial_windows({"in": content}), stepwise=stepwise
    )


def _same(found: Values, other: Values) -> None:
    for name in ("ub", "accumulators", "weight", "overflows", "saturations"):
        assert np.array_equal(getattr(found, name), getattr(other, name)), name


def _is_reference(program: Program, content: np.ndarray) -> Values:
    expected = reference.run(program, {"in": content}, checked=True)
    assert expected.fault is None
    found = _values(program, content)
    assert np.array_equal(found.ub, expected.memories["ub"])
    assert np.array_equal(found.accumulators, expected.memories["accumulators"])
    return found


def _bytes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(-128, 128, count).astype(np.int8)


def _convolution(rng: np.random.Generator, **fields: int) -> tuple[Program, np.ndarray]:
    """A 3x3 convolution 20x20x64 -> 64 with padding, as two column tiles."""
    weights = _bytes(rng, 2 * 18 * 1024)
    size = 20 * 20 * 64
    items = [
        instruction("read_weights", row_pitch=32, n_count=2, outer_count=3, inner_count=6,
                    n_stride=18 * 1024, outer_stride=6 * 1024, inner_stride=1024, k_last=32,
                    n_last=32),
        instruction("matmul", pad_value=5, ub_address=-21 * 64, p_start=-64, p_limit=20 * 64,
                    y_start=-1, y_limit=20, x_count=20, y_count=20, k2_count=6, k0_count=3,
                    n_count=2, x_step=64, k2_step=32, y_step=1, k0_step=1, y_address_step=20 * 64,
                    k0_address_step=20 * 64, k_last=32, acc_n_step=400, **fields),
    ]
    return _program(EDGE32, items, weights, size), _bytes(rng, size)


@pytest.mark.parametrize("unsigned", [0, 1])
def test_a_convolution_is_the_reference(unsigned: int) -> None:
    program, content = _convolution(np.random.default_rng(1), unsigned_activations=unsigned)
    found = _is_reference(program, content)
    _same(found, _values(program, content, stepwise=True))


def test_small_pieces_make_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, content = _convolution(np.random.default_rng(2))
    expected = _values(whole, content)
    # Now no two steps fit one piece, no two column tiles one group, and nothing is kept.
    monkeypatch.setattr(matrix_plan, "PIECE_ELEMENTS", 100)
    monkeypatch.setattr(matrix_values, "KEPT_BYTES", 0)
    again, content = _convolution(np.random.default_rng(2))
    _same(_values(again, content), expected)


@pytest.mark.parametrize("steps", [4, 5, 16])
def test_float32_is_exact_at_its_edge(steps: int) -> None:
    """1,024 rows of (-128) * (-128) are 2**24; one odd product more needs the next bit."""
    arch = PRESETS["tpu-v1"]
    weights = np.full((steps * 256, 2), -128, np.int8)
    weights[-1] = 1, -127
    items = [
        instruction("read_weights", row_pitch=2, n_last=2, inner_count=steps, k_last=256,
                    inner_stride=512),
        instruction("matmul", x_count=3, k2_count=steps, k2_step=256, k_last=256,
                    p_limit=steps * 256),
    ]
    content = np.full(steps * 256, -128, np.int8)
    program = _program(arch, items, weights.reshape(-1), steps * 256)
    found = _values(program, content)
    exact = content.astype(np.int64) @ weights.astype(np.int64)
    assert exact[0] % 256 == 128, "the last product matters"
    assert (found.accumulators[:3, :2] == exact).all()
    assert not found.accumulators[:, 2:].any()


def test_matmuls_of_the_same_activations_are_made_together() -> None:
    rng = np.random.default_rng(3)
    weights = _bytes(rng, 6 * 64)
    load = [
        instruction("read_weights", address=64 * n, row_pitch=8, k_last=8, n_last=8 - n % 2)
        for n in range(6)
    ]
    take = [
        instruction("matmul", x_count=50, x_step=8, p_limit=400, k_last=8, acc_address=50 * n)
        for n in range(6)
    ]
    overwrite = instruction("fill", out_address=160, n_last=3, zero_point=77)
    items = [item for pair in zip(load, take, strict=True) for item in pair]
    plan = matrix_plan.plan_matrix(items, WIDE)
    batches = {id(product.batch) for product in plan.products.values()}
    assert len(batches) == 1
    content = _bytes(rng, 400)
    _is_reference(_program(WIDE, items, weights, 400), content)
    # The activations change on the way: what was made ahead must not be used.
    changed = [*items[:6], overwrite, *items[6:]]
    _is_reference(_program(WIDE, changed, weights, 400), content)


def test_weights_are_those_of_their_instruction_s_turn() -> None:
    """Memory that is written between loading a tile and taking it."""
    rng = np.random.default_rng(4)
    spill = instruction("write_weight_memory", memory_address=16, ub_address=64, run_bytes=40)
    matmul = instruction("matmul", x_count=20, x_step=8, p_limit=160, k_last=8)
    later = instruction("matmul", x_count=20, x_step=8, p_limit=160, k_last=8, acc_address=20)
    for name, writes in (
        ("read_weights", spill), ("read_weights_ub", instruction("fill", out_address=16, n_last=8)),
    ):
        load = instruction(name, row_pitch=8, k_last=8, n_last=8)
        items = [load, writes, matmul, load, later]
        found = _is_reference(_program(WIDE, items, _bytes(rng, 64), 200), _bytes(rng, 200))
        assert not np.array_equal(found.accumulators[:20], found.accumulators[20:40])


@hypothesis_settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.integers(0, 2), st.booleans(), st.booleans())
def test_counting_is_skipped_only_where_nothing_wraps(
    seed: int, shift: int, accumulate: bool, small: bool
) -> None:
    rng = np.random.default_rng(seed)
    low, high = (-2, 3) if small else (-128, 128)
    weights = rng.integers(low, high, 6 * 64).astype(np.int8)
    items = [
        instruction("read_weights", row_pitch=8, inner_count=6, inner_stride=64, k_last=5,
                    n_last=8)
    ]
    items.append(instruction(
        "matmul", x_count=9, x_step=3, k2_count=6, k2_step=8, p_limit=99, k_last=5,
        accumulate_shift=shift, accumulate=accumulate,
    ))
    program = _program(WIDE, items * 3, weights, 100)
    content = _bytes(rng, 100)
    found = _is_reference(program, content)
    _same(found, _values(program, content, stepwise=True))


def test_what_is_kept_stays_within_its_budget_and_is_forgotten_when_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matrix_values, "KEPT_BYTES", 100)
    kept = matrix_values.Kept()

    def ten(value: int) -> np.ndarray:
        return np.full(10, value, np.float32)

    for key in range(3):
        kept.get(key, (10 * key, 10 * key + 10), partial(ten, key))
    assert kept.find(0) is None, "only two of 40 bytes fit"
    assert kept.get(2, (20, 30), lambda: ten(99))[0] == 2
    kept.written(15, 20)
    assert kept.find(1) is None and kept.find(2) is not None
    kept.written(30, 99)
    assert kept.find(2) is not None
    assert kept.get("large", (0, 1), lambda: np.zeros(99, np.float32)).size == 99
    assert kept.find("large") is None and kept.find(2) is not None


def test_no_piece_is_inexact_or_large() -> None:
    arch = PRESETS["tpu-v1"]
    items = [
        instruction("read_weights", n_count=40, outer_count=9, inner_count=3, k_last=100,
                    n_last=256),
        instruction("matmul", n_count=40, k0_count=9, k2_count=3, k_last=100, x_count=4000,
                    acc_n_step=4000),
    ]
    (product,) = matrix_plan.plan_matrix(items, arch).products.values()
    assert [first for first, _ in product.ranges] == [0, *(end for _, end in product.ranges[:-1])]
    assert product.ranges[-1][1] == 27
    assert sum(count for _, count in product.groups) == 40
    for first, end in product.ranges:
        rows = product.tops[end] - product.tops[first]
        assert 256 <= rows <= matrix_plan.EXACT_ROWS
        for _, count in product.groups:
            columns = count * arch.columns
            assert max(rows * 4000, rows * columns, 4000 * columns) <= matrix_plan.PIECE_ELEMENTS


def test_runs_of_bytes_that_meet_on_other_lines_stay_apart() -> None:
    """A line's last bytes end where the next line's begin, and only the former are padding."""
    rng = np.random.default_rng(7)
    weights = _bytes(rng, 4 * 64)
    items = [
        instruction("read_weights", row_pitch=8, outer_count=2, outer_stride=128, inner_count=2,
                    inner_stride=64, k_last=8, n_last=8),
        instruction("matmul", ub_address=8, p_start=8, p_limit=64, y_start=-1, y_limit=1, x_count=4,
                    x_step=8, k0_count=2, k0_step=1, k1_count=2, k1_step=-8, k_last=8,
                    pad_value=77),
    ]
    _is_reference(_program(WIDE, items, weights, 64), _bytes(rng, 64))
