"""Tiling: every output once, within a bank of accumulators, for any geometry."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systol_compiler.old_quantized import window_output_size
from systol_compiler.tiling import TiledWork, TilingOptions, tile
from systol_compiler.work import WHOLE, Buffer, LoweredNetwork, MatrixWork, Window2D
from systol_hw.arch import PRESETS, Arch

NANO = PRESETS["nano"]
EDGE32 = PRESETS["edge32"]


def work_of(
    *, size: tuple[int, int], channels: int, reduction: int, planes: int = 1,
    taps: tuple[int, int] = (1, 1), pool: Window2D = WHOLE,
    out_size: tuple[int, int] | None = None, line_bytes: int | None = None,
) -> MatrixWork:
    return MatrixWork(
        name="w", layers=("w",), source_nodes=(), input="x", output="y", planes=planes,
        lines=size[0], line_bytes=line_bytes or size[1] * reduction, element_bytes=reduction,
        size=size, steps=(1, 1), taps=taps, tap_steps=(1, 1), pads=(0, 0),
        weights=np.zeros((*taps, reduction, channels), np.int8),
        bias=np.zeros(channels, np.int32), multipliers=np.ones(channels, np.int32),
        shifts=np.zeros(channels, np.uint8), zp_in=0, zp_out=0, lo=-128, hi=127, pool=pool,
        out_size=out_size or size,
    )


def tiled(work: MatrixWork, arch: Arch, *, from_host: bool = True, **options: int) -> TiledWork:
    rows, columns = work.out_size
    network = LoweredNetwork(
        name="n", images=1,
        buffers={
            "x": Buffer(
                name="x", images=1, image_bytes=work.planes * work.lines * work.line_bytes
            ),
            "y": Buffer(
                name="y", images=1, image_bytes=work.planes * rows * columns * work.out_channels
            ),
        },
        works=(work,), inputs=("x",) if from_host else (), outputs=("y",),
    )
    result = tile(network, arch, TilingOptions(**options))  # type: ignore[arg-type]
    result.verify(arch)
    return result.works[0]


@settings(max_examples=150)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), channels=st.integers(1, 40),
    planes=st.integers(1, 3), bank=st.sampled_from([16, 64, 128]), least=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_convolution_steps_cover_each_output_once(
    rows: int, columns: int, channels: int, planes: int, bank: int, least: int,
    kernel: tuple[int, int], strides: tuple[int, int],
) -> None:
    kernel = (min(kernel[0], rows), min(kernel[1], columns))
    pool = Window2D(kernel=kernel, strides=strides, dilations=(1, 1), pads=(0, 0))
    out = (
        window_output_size(rows, kernel[0], strides[0], 0, 0, 1),
        window_output_size(columns, kernel[1], strides[1], 0, 0, 1),
    )
    arch = dataclasses.replace(NANO, accumulator_rows=2 * bank)
    work = work_of(
        size=(rows, columns), channels=channels, reduction=5, planes=planes, taps=(2, 1),
        pool=pool, out_size=out,
    )
    result = tiled(work, arch, least_chunks=least)
    covered = np.zeros((planes, *out, result.column_tiles), int)
    for step in result.steps:
        chunk = step.chunk
        area = (slice(*chunk.rows), slice(*chunk.columns), list(step.tiles))
        covered[chunk.plane][area] += 1
        height = chunk.product_rows[1] - chunk.product_rows[0]
        width = chunk.product_columns[1] - chunk.product_columns[0]
        assert height * width * len(step.tiles) <= bank
    assert (covered == 1).all()


@settings(max_examples=150)
@given(
    rows=st.integers(1, 200), channels=st.integers(1, 100), reduction=st.integers(1, 200),
    from_host=st.booleans(), early=st.booleans(), machine=st.sampled_from([NANO, EDGE32]),
)
def test_linear_steps_reduce_everything_in_order(
    rows: int, channels: int, reduction: int, from_host: bool, early: bool, machine: Arch
) -> None:
    work = work_of(size=(rows, 1), channels=channels, reduction=reduction)
    assert work.streams
    result = tiled(work, machine, from_host=from_host, early_start=early)
    done: dict[tuple[int, int], int] = {}
    for step in result.steps:
        for column in step.tiles:
            key = (step.chunk.rows[0], column)
            assert step.reduction[0] == done.get(key, 0)
            assert step.accumulate == (key in done)
            done[key] = step.reduction[1]
            assert step.finish == (step.reduction[1] == result.reduction_steps)
    chunks = {step.chunk.rows for step in result.steps}
    assert sum(high - low for low, high in chunks) == rows
    assert len(done) == len(chunks) * result.column_tiles


def test_successive_convolution_chunks_alternate_banks() -> None:
    work = work_of(size=(32, 8), channels=8, reduction=9, taps=(3, 1))
    steps = tiled(work, NANO).steps
    banks = [step.accumulator // NANO.accumulator_bank_rows for step in steps]
    assert len(banks) == 4 and banks == [0, 1, 0, 1]


def test_tiles_that_finish_one_by_one_alternate_banks() -> None:
    work = work_of(size=(64, 1), channels=256, reduction=784)
    steps = [step for step in tiled(work, EDGE32).steps if step.finish]
    banks = [step.accumulator // EDGE32.accumulator_bank_rows for step in steps]
    assert [list(step.tiles) for step in steps] == [[i] for i in range(8)]
    assert banks == [0, 1] * 4


def test_first_linear_layer_starts_with_little_input() -> None:
    work = work_of(size=(64, 1), channels=256, reduction=784)
    early = tiled(work, EDGE32).steps[0]
    late = tiled(work, EDGE32, early_start=False).steps[0]
    assert early.reduction == (0, 1) and late.reduction == (0, 25)


def test_verifier_sees_a_missing_step() -> None:
    work = work_of(size=(4, 1), channels=8, reduction=30)
    good = tiled(work, NANO)
    bad = dataclasses.replace(good, steps=good.steps[:-1])
    with pytest.raises(AssertionError):
        bad.verify(NANO)


def test_tiled_work_prints_its_steps() -> None:
    text = str(tiled(work_of(size=(4, 1), channels=8, reduction=30), NANO))
    assert "1 column tiles x 4 reduction steps" in text and "requantize" in text
