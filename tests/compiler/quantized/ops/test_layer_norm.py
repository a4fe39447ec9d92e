"""Layer and RMS normalization: exact against their nests, and near the float operator."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import Result, run_operator
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.ops.moves.turn import Turn
from systol_compiler.quantized.ops.pointwise.channel_affine import ChannelAffine
from systol_hw.arch import PRESETS, Arch

NANO = [PRESETS["nano"]]


def normalized(
    x: Array, *, centred: bool = True, affine: bool = True, width: int = 8, axis: int = -1,
    archs: list[Arch] | None = None, seed: int = 1, epsilon: float = 1e-5, **more: float,
) -> Result:
    rng, shape = np.random.default_rng(seed), x.shape[axis:]
    constants = {"scale": rng.normal(1, 0.5, shape) if affine else np.ones(shape)}
    if centred:
        constants["bias"] = rng.normal(0, 0.5, shape) if affine else np.zeros(shape)
    return run_operator(
        "LayerNormalization" if centred else "RMSNormalization", {"x": x.astype(np.float32)},
        constants={name: value.astype(np.float32) for name, value in constants.items()},
        attributes={"axis": axis, "epsilon": epsilon}, width=width,
        archs=[] if archs is None else archs, export=more.get("export"),
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("elements", [8, 48, 64, 200, 768])
def test_above_35_decibels(elements: int, width: int, centred: bool) -> None:
    rng = np.random.default_rng(elements)
    for affine in (True, False):
        for centre in (0.0, 2.0):
            x = rng.normal(centre, 1.5, (2, 9, elements))
            result = normalized(x, centred=centred, affine=affine, width=width)
            assert result.decibels > 35
            assert result.steps.max() < 1.5


@pytest.mark.parametrize("width", [8, 16])
def test_rows_of_different_sizes(width: int) -> None:
    """Down to a row whose deviation is two steps of 8 bits, or a 300th of the range of 16."""
    x = np.random.default_rng(0).normal(size=(2, 9, 256))
    x *= np.geomspace(0.1 if width == 8 else 0.02, 1, 9)[:, None]
    result = normalized(x, width=width)
    assert result.decibels > 35
    assert result.steps.max() < 1.5


def test_a_large_element_in_a_row() -> None:
    x = np.random.default_rng(0).normal(size=(3, 9, 64))
    x[0, :, 5] = 30
    assert normalized(x).steps.max() < 1.5
    assert normalized(x, width=16).steps.max() < 1.5


def test_equal_elements_give_the_bias() -> None:
    """To within a step: an offset is exact to half a step of the normalized values."""
    for width in (8, 16):
        for elements in (1, 7):
            x = np.tile(np.linspace(-3, 4, 9)[:, None], (1, elements))
            result = normalized(x, width=width, axis=-1)
            assert result.steps.max() < 1.01


@pytest.mark.parametrize("shape", [(1, 5), (6,), (2, 3, 4, 10), (1, 49, 48)])
@pytest.mark.parametrize("centred", [True, False])
def test_of_any_rank_on_machines(shape: tuple[int, ...], centred: bool) -> None:
    x = np.random.default_rng(3).normal(size=shape)
    normalized(x, centred=centred, archs=NANO)
    normalized(x, centred=centred, width=16, archs=NANO)
    normalized(x, centred=centred, affine=False, archs=[PRESETS["edge32"]])


def test_over_several_axes() -> None:
    x = np.random.default_rng(3).normal(size=(3, 4, 5))
    assert normalized(x, axis=-2, archs=NANO).decibels > 35
    assert normalized(x, axis=-2, affine=False, archs=NANO).decibels > 35
    assert normalized(x, axis=-2, centred=False, archs=NANO).steps.max() < 1.5
    # An axis of one element makes no difference.
    single = normalized(x[:, None, 0], axis=-2, width=16, archs=NANO)
    assert single.steps.max() < 1.5 and ChannelAffine in map(type, single.graph.layers)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("size", [1e-2, 1e-4, 2e-5, 1e-6, 1e-8])
def test_of_ranges_down_to_where_epsilon_alone_decides(
    size: float, width: int, centred: bool
) -> None:
    for elements in (4, 64):
        x = np.random.default_rng(elements).normal(size=(2, 9, elements)) * size
        result = normalized(x, width=width, centred=centred, affine=False, archs=NANO)
        assert result.decibels > 30, (elements, result.decibels)


def test_epsilon_counts() -> None:
    x = np.random.default_rng(3).normal(size=(6, 40)) * 0.1
    assert normalized(x, epsilon=0.02, affine=False).steps.max() < 1.0
    assert normalized(x, epsilon=0.0, affine=False).steps.max() < 1.0


def test_a_scale_alone_needs_no_pass_of_its_own() -> None:
    x = np.random.default_rng(3).normal(size=(6, 40))
    plain, affine = normalized(x, affine=False), normalized(x)
    kinds = [type(layer) for layer in plain.graph.layers]
    assert ChannelAffine not in kinds and kinds[0] is Turn
    assert ChannelAffine in [type(layer) for layer in affine.graph.layers]


def test_offsets_beside_factors_of_zero() -> None:
    scale, bias = np.array([0, 1, -2, 0, 1e-9], np.float32), np.array([3, 0, 1, 0, -2], np.float32)
    x = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    result = run_operator(
        "LayerNormalization", {"x": x}, constants={"scale": scale, "bias": bias},
        attributes={"axis": -1}, archs=NANO,
    )
    assert result.steps.max() < 1.5


def test_exports() -> None:
    x = np.random.default_rng(3).normal(size=(6, 40))
    for width in (8, 16):
        normalized(x, width=width, export=1.01)
        normalized(x, width=width, affine=False, centred=False, export=1.01)


def test_refusals() -> None:
    row = np.ones(4, np.float32)

    def case(*constants: Array, **attributes: float) -> str:
        return Case(
            op="LayerNormalization", inputs=[(3, 4), *constants], attributes=attributes
        ).refusal()

    assert "not finite" in case(row * np.inf, row)
    assert "epsilon must be" in case(row, row, epsilon=-1.0)
