"""The compile report: totals that are the run's, crossings, and every node."""

import json

from hand_made import copy_model, sandwich_model
from systol_compiler.quantized.placement.partition import Place, PlacedNode
from systol_compiler.report import build_report, find_crossings, node_rows
from systol_sim.simulator import run_timing


def test_crossings_of_segments_in_any_order() -> None:
    rows = [(r["quantized"], r["tensor"], r["to"]) for r in find_crossings(sandwich_model())]
    assert rows == [
        ("scaled", "scaled", "machine"), ("rows", "rows", "machine"),
        ("scaled2", "scaled_out", "host"), ("rows2", "rows_out", "host"),
        ("doubled", "doubled", "machine"), ("again", "wide_real", "host"),
        ("rows3", "rows_again", "host"),
    ]  # fmt: skip
    sizes = {r["quantized"]: (r["bytes"], r["elements"]) for r in find_crossings(sandwich_model())}
    assert sizes["rows"] == (32, 16) and sizes["scaled"] == (12, 12)


def test_totals_are_those_of_the_programs() -> None:
    model = sandwich_model()
    report = build_report(model, notes=["a warning"], details={"first": {"choices": ["one"]}})
    cycles = [run_timing(s.program).counters for s in model.machine_segments]
    assert report["summary"]["cycles"] == sum(c.cycles for c in cycles if c is not None)
    assert report["summary"]["cycles"] == sum(row["cycles"] for row in report["layers"])
    assert report["summary"]["crossings"] == 7
    kinds = [(row["segment"], row["place"]) for row in report["segments"]]
    assert kinds == [
        ("before", "host"), ("first", "machine"), ("middle", "host"), ("second", "machine"),
        ("after", "host"),
    ]  # fmt: skip
    assert report["segments"][1]["choices"] == ["one"]
    assert report["notes"] == ["a warning"]
    assert json.loads(json.dumps(report)) == report


def test_nodes_by_the_partition_or_by_layers() -> None:
    model = copy_model()
    (row,) = build_report(model)["nodes"]
    assert row == {"node": "copy0", "place": "machine", "reason": "part of layer 'machine.copy0'"}
    placed = [
        PlacedNode(
            name="n", op="Conv", place=Place.HOST, reason="why", remedy="how", macs=3, bytes=4
        )
    ]
    source = [("gone", "Shape"), ("n", "Conv")]
    gone, row = build_report(model, nodes=node_rows(source, placed))["nodes"]
    assert (gone["node"], gone["place"], gone["macs"]) == ("gone", "folded", 0)
    assert row == {
        "node": "n", "operator": "Conv", "place": "host", "reason": "why", "remedy": "how",
        "macs": 3, "bytes": 4,
    }  # fmt: skip
