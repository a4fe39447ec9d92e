"""Ranges chosen at the network's results."""

import numpy as np
import pytest

from small_networks import images, residual_network
from systol_compiler.calibrate.fake_quantization import FakeQuantizedModel
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.grouping import TensorGroup, group_tensors
from systol_compiler.calibrate.histogram import Distribution
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.calibrate.numbering import number_tensors
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.ranges import choose_range
from systol_compiler.calibrate.selection import select_ranges
from systol_compiler.calibrate.statistics import collect
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.operator import registry
from systol_compiler.quantized.placement.partition import Partition, partition

Setting = tuple[Partition, tuple[TensorGroup, ...], dict[str, Distribution], Samples]


@pytest.fixture(scope="module")
def setting() -> Setting:
    parts = partition(residual_network())
    groups = group_tensors(parts, registry())
    samples = Samples(parts.graph, images(16, 0), "test", 100)
    seen = collect(parts.graph, samples, [name for group in groups for name in group.observed])
    return parts, groups, seen, samples


def noise(setting: Setting, numbers: dict[str, Numbers]) -> float:
    parts, groups, _, samples = setting
    model = FakeQuantizedModel(parts.graph, groups, ["y"])
    real = FloatModel(parts.graph, ["y"])
    return sum(
        float(((model.run(feeds, numbers)[0] - real.run(feeds)["y"]) ** 2).sum())
        for feeds, _ in samples.kept(16)
    )


def test_the_choice_is_about_as_good_as_the_best_single_method(setting: Setting) -> None:
    parts, groups, seen, samples = setting
    options = QuantizationOptions()
    chosen = select_ranges(parts, groups, seen, samples, options)
    best = noise(setting, dict(number_tensors(groups, seen, options, chosen).numbers))
    for method in ("minmax", "mse", "robust", "entropy"):
        spans = [choose_range(seen[group.members[0]], method, 0) for group in groups]
        other = noise(setting, dict(number_tensors(groups, seen, options, spans).numbers))
        # Of the noise on calibration data, room for other data costs a part.
        assert best <= other * 1.5


def test_a_fake_quantized_tensor_has_the_values_of_its_codes(setting: Setting) -> None:
    parts, groups, seen, samples = setting
    numbers = dict(number_tensors(groups, seen, QuantizationOptions()).numbers)
    feeds, own = samples.kept(1)[0][0], numbers["r"]
    found = FakeQuantizedModel(parts.graph, groups, ["r"]).run(feeds, numbers)[0]
    codes = quantize(found, own.scale, own.zero_point)
    np.testing.assert_array_equal(found, dequantize(codes, own.scale, own.zero_point))
    real = FloatModel(parts.graph, ["r"]).run(feeds)["r"]
    assert 0 < np.abs(found - real).max() < 3 * own.scale


def test_every_group_gets_a_range_that_holds_zero(setting: Setting) -> None:
    parts, groups, seen, samples = setting
    chosen = select_ranges(parts, groups, seen, samples, QuantizationOptions())
    assert len(chosen) == len(groups)
    assert all(span is not None and span[0] <= 0 <= span[1] for span in chosen)
