"""Lowering: folding, fusion and parameters, held against plain numpy."""

from collections.abc import Mapping

import numpy as np
import pytest

from systol_compiler.lowering import lower
from systol_compiler.old_quantized import (
    DequantizeOutput,
    Layer,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    QuantizedGraph,
    QuantizeInput,
)
from systol_compiler.work import MatrixWork, PoolWork
from systol_hw.arch import PRESETS
from systol_hw.errors import UnsupportedModelError

NANO = PRESETS["nano"]


def _conv(name: str, source: str, target: str, weights: np.ndarray, **geometry: object) -> QConv2D:
    outputs = len(weights)
    values: dict[str, object] = {
        "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1, **geometry
    }
    return QConv2D(
        name=name, input=source, output=target, weights=weights.astype(np.int8),
        weight_scales=np.ones(outputs, np.float32),
        bias=np.arange(outputs, dtype=np.int32) - 2,
        multipliers=np.full(outputs, (1 << 16) + 5, np.int32),
        shifts=np.full(outputs, 24, np.uint8),
        zp_in=3, zp_out=3, lo=-128, hi=127, source_nodes=(name,),
        **values,  # type: ignore[arg-type]
    )


def _graph(layers: tuple[Layer, ...], shapes: Mapping[str, tuple[int, ...]],
           shown: tuple[str, ...] = ()) -> QuantizedGraph:
    tensors = {
        name: QTensor(name=name, shape=shape, scale=1.0, zero_point=3, source=name)
        for name, shape in shapes.items()
    }
    names = list(shapes)
    graph = QuantizedGraph(
        name="g",
        inputs=(
            QuantizeInput(
                name="x", source_shape=shapes[names[0]],
                permutation=tuple(range(len(shapes[names[0]]))), tensor=names[0], scale=1.0,
                zero_point=3,
            ),
        ),
        outputs=tuple(
            DequantizeOutput(
                name=name, source_shape=shapes[name], permutation=tuple(range(len(shapes[name]))),
                tensor=name, scale=1.0, zero_point=3,
            )
            for name in dict.fromkeys((*shown, names[-1]))
        ),
        tensors=tensors,
        layers=layers,
    )
    graph.verify()
    return graph


def _pool(source: str, target: str, kernel: tuple[int, int]) -> QMaxPool:
    return QMaxPool(
        name="pool", input=source, output=target, kernel=kernel, strides=kernel,
        pads=(0, 0, 0, 0), dilations=(1, 1), source_nodes=("pool",),
    )


def test_kernel_rows_fold_into_one_reduction_step() -> None:
    weights = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4) % 100
    graph = _graph(
        (_conv("c", "x", "y", weights, pads=(1, 2, 1, 2)),), {"x": (6, 7, 9, 4), "y": (6, 7, 9, 2)}
    )
    (work,) = lower(graph, NANO, 2).works
    assert isinstance(work, MatrixWork)
    assert work.taps == (3, 1) and work.step_bytes == 20
    # One kernel row is the row's bytes in the order of the input row: column, then channel.
    np.testing.assert_array_equal(work.weights[1, 0, :, 1], weights[1, 1].reshape(-1))
    assert work.planes == 2 and work.macs == 2 * 7 * 9 * weights.size


def test_horizontal_dilation_keeps_kernel_columns_apart() -> None:
    weights = np.arange(2 * 3 * 3 * 4).reshape(2, 3, 3, 4) % 100
    graph = _graph(
        (_conv("c", "x", "y", weights, dilations=(1, 2)),), {"x": (1, 7, 9, 4), "y": (1, 5, 5, 2)}
    )
    (work,) = lower(graph, NANO, 1).works
    assert isinstance(work, MatrixWork)
    assert work.taps == (3, 3) and work.step_bytes == 4 and work.tap_steps == (1, 2)
    np.testing.assert_array_equal(work.weights[2, 1, :, 0], weights[0, 2, 1])


def test_groups_become_block_diagonal() -> None:
    weights = np.arange(1, 5).reshape(4, 1, 1, 1)
    graph = _graph(
        (_conv("c", "x", "y", weights, groups=2),), {"x": (1, 2, 2, 2), "y": (1, 2, 2, 4)}
    )
    (work,) = lower(graph, NANO, 1).works
    assert isinstance(work, MatrixWork)
    np.testing.assert_array_equal(work.weights[0, 0], [[1, 2, 0, 0], [0, 0, 3, 4]])


def test_images_fold_where_no_window_crosses_them() -> None:
    pointwise = _graph(
        (_conv("c", "x", "y", np.ones((2, 1, 1, 3))),), {"x": (8, 4, 4, 3), "y": (8, 4, 4, 2)}
    )
    (work,) = lower(pointwise, NANO, 4).works
    assert isinstance(work, MatrixWork)
    assert (work.planes, work.lines, work.size) == (1, 16, (16, 4))
    tall = _graph(
        (_conv("c", "x", "y", np.ones((2, 2, 1, 3))),), {"x": (8, 4, 4, 3), "y": (8, 3, 4, 2)}
    )
    (work,) = lower(tall, NANO, 4).works
    assert isinstance(work, MatrixWork)
    assert work.planes == 4


@pytest.mark.parametrize("shown", [True, False])
def test_pool_fuses_unless_the_convolution_is_shown(shown: bool) -> None:
    layers = (_conv("c", "x", "m", np.ones((2, 1, 1, 3))), _pool("m", "y", (2, 2)))
    shapes = {"x": (1, 4, 4, 3), "m": (1, 4, 4, 2), "y": (1, 2, 2, 2)}
    network = lower(_graph(layers, shapes, ("m",) if shown else ()), NANO, 1)
    assert [type(work) for work in network.works] == (
        [MatrixWork, PoolWork] if shown else [MatrixWork]
    )
    assert ("m" in network.buffers) is shown
    assert network.outputs == (("m", "y") if shown else ("y",))


def test_pool_too_wide_for_the_accumulators_stays_apart() -> None:
    layers = (_conv("c", "x", "m", np.ones((2, 1, 1, 1))), _pool("m", "y", (9, 9)))
    shapes = {"x": (1, 9, 9, 1), "m": (1, 9, 9, 2), "y": (1, 1, 1, 2)}
    assert NANO.accumulator_bank_rows < 81
    assert len(lower(_graph(layers, shapes), NANO, 1).works) == 2
    assert len(lower(_graph(layers, shapes), PRESETS["edge16"], 1).works) == 1


def test_parameters_are_packed_as_the_vector_unit_reads_them() -> None:
    layer = QLinear(
        name="l", input="x", output="y", weights=np.ones((2, 4), np.int8),
        weight_scales=np.ones(2, np.float32), bias=np.array([-2, 258], np.int32),
        multipliers=np.array([(1 << 16) + 1, (1 << 17) - 1], np.int32),
        shifts=np.array([7, 63], np.uint8), zp_in=3, zp_out=3, lo=-128, hi=127,
        source_nodes=("l",),
    )
    (work,) = lower(_graph((layer,), {"x": (3, 4), "y": (3, 2)}), NANO, 3).works
    assert isinstance(work, MatrixWork)
    assert work.streams and work.size == (3, 1)
    assert bytes(work.parameters()) == (
        b"\xfe\xff\xff\xff\x01\x00\x01\x07" + b"\x02\x01\x00\x00\xff\xff\x01\x3f"
    )


def test_what_no_field_can_hold_is_refused_by_name() -> None:
    graph = _graph(
        (_conv("wide", "x", "y", np.ones((1, 1, 1, 1)), strides=(300, 1)),),
        {"x": (1, 301, 1, 1), "y": (1, 2, 1, 1)},
    )
    with pytest.raises(UnsupportedModelError, match=r"'wide': the vertical stride.*256.*300"):
        lower(graph, NANO, 1)


def test_lowered_network_prints_its_works() -> None:
    layers = (_conv("c", "x", "m", np.ones((2, 1, 1, 3))), _pool("m", "y", (2, 2)))
    shapes = {"x": (1, 4, 4, 3), "m": (1, 4, 4, 2), "y": (1, 2, 2, 2)}
    text = str(lower(_graph(layers, shapes), NANO, 1))
    assert "matrix 'c' %x -> %y" in text and "maxpool 2x2" in text
    assert "pool 'pool' %m -> %y" in str(lower(_graph(layers, shapes, ("m",)), NANO, 1))
