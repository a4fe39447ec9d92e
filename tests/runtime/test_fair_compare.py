"""`systol compare` says where figures do not compare like with like."""

import json
from pathlib import Path

import numpy as np
import pytest

from systol import cli
from systol.compare import unfair
from systol.execution.session import Device
from systol.results.report import make_report, write_json
from systol.selftest import FEATURES, tiny_model

FULL = make_report(Device("sim").run(tiny_model(), np.zeros((4, FEATURES))))
PART = make_report(Device("sim").run(tiny_model(), np.zeros((3, FEATURES))))


def test_full_runs_of_one_batch_compare() -> None:
    assert unfair([FULL, FULL], ["a", "b"]) == []


def test_filled_runs_and_other_batches_do_not() -> None:
    (text,) = unfair([FULL, PART], ["a", "b"])
    assert text.startswith("b: its last run was filled up with 1 copies beside 3 images")
    (text,) = unfair([FULL, {**FULL, "batch": 7}], ["a", "b"])
    assert text.startswith("batches differ (a: 2, b: 7)")
    assert unfair([FULL, {"batch": "7\x1b", "filled": []}], ["a", "b"]) == []


def test_the_command_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, report in (("full", FULL), ("part", PART)):
        write_json(tmp_path / f"{name}.json", report)
    paths = [str(tmp_path / "full.json"), str(tmp_path / "part.json")]
    assert cli.main(["compare", *paths]) == 0
    assert "warning: part: its last run" in capsys.readouterr().err
    assert cli.main(["compare", *paths, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1
    assert cli.main(["compare", paths[0], paths[0]]) == 0
    assert "warning" not in capsys.readouterr().err
