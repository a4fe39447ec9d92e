"""Error reports, and the search for where a network goes wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from small_networks import images, residual_network
from systol_compiler.calibrate.errors.bisect import departures, first_difference
from systol_compiler.calibrate.errors.error_report import (
    error_report,
    plot_report,
    print_report,
    report_json,
)
from systol_compiler.calibrate.options import Override, QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.quantized.evaluate import run_layers


def test_a_coarse_tensor_is_where_the_network_departs(tmp_path: Path) -> None:
    graph = residual_network()
    coarse = QuantizationOptions(overrides={"c": Override(range=(-100.0, 100.0))})
    quantized = quantize_graph(graph, images(16, 0), coarse)
    errors = error_report(graph, quantized, images(8, 1))
    assert [error.tensor for error in errors] == ["x", "r", "c", "s", "t", "y"]
    found = departures(quantized, errors)
    assert found[0].error.tensor == "c" and found[0].error.nodes
    assert found[0].before_db > found[0].error.sqnr_db + 6
    assert "'c'" in str(found[0])
    assert not departures(quantized, errors, floor_db=-100)
    rows = json.loads(report_json(errors))
    assert rows[2]["tensor"] == "c" and rows[2]["width"] == 8
    assert len(print_report(errors).splitlines()) == 1 + len(errors)
    plot_report(errors, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_a_good_network_departs_nowhere() -> None:
    graph = residual_network()
    quantized = quantize_graph(graph, images(16, 0))
    errors = error_report(graph, quantized, images(8, 1))
    assert not departures(quantized, errors)
    assert all(abs(error.mean_error) < 0.05 for error in errors)


def test_the_first_different_tensor_is_named_with_its_node() -> None:
    quantized = quantize_graph(residual_network(), images(8, 0))
    feeds = {"x": images(1, 1)}
    codes, _ = run_layers(quantized, feeds)
    assert first_difference(quantized, feeds, codes) is None
    codes["s"] = codes["s"].copy()
    codes["s"][0, 2, 1, 3] ^= 1
    codes["y"] = np.zeros_like(codes["y"])
    found = first_difference(quantized, feeds, codes)
    assert found is not None
    assert (found.tensor, found.index, found.count) == ("s", (0, 2, 1, 3), 1)
    assert found.found == found.expected ^ 1
    assert found.nodes == quantized.machine_layers[2].source_nodes
    unseen = {"y": codes["y"]}
    later = first_difference(quantized, feeds, unseen)
    assert later is not None and later.tensor == "y"


def test_other_shapes_differ_everywhere() -> None:
    quantized = quantize_graph(residual_network(), images(8, 0))
    found = first_difference(quantized, {"x": images(1, 1)}, {"s": np.zeros((1,), np.int8)})
    assert found is not None and found.count == found.size


@pytest.mark.parametrize("samples", [1, 3])
def test_the_report_counts_each_sample_once(samples: int) -> None:
    graph = residual_network(4)
    quantized = quantize_graph(graph, images(8, 0))
    data = images(samples, 1)
    padded = np.concatenate([data, data, data, data])[: 4 * samples]
    report = error_report(graph, quantized, data)
    if samples == 1:
        same = error_report(graph, quantized, padded)
        assert [e.sqnr_db for e in report] == pytest.approx([e.sqnr_db for e in same])
    assert all(error.sqnr_db > 20 for error in report)
