"""The FPGA estimate."""

import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import MissingToolError
from systol_hw.synthesis import ECP5_85F, cells_of, estimate


def test_carries_and_distributed_memory_count_as_lookup_tables() -> None:
    report = {
        "design": {
            "num_cells_by_type": {
                "LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "DP16KD": 5, "TRELLIS_FF": 7,
                "$scopeinfo": 4,
            }
        }
    }  # fmt: skip
    cells = cells_of(report)
    assert cells["LUT4_total"] == 10 + 2 * 3 + 6 * 2
    assert cells["DP16KD"] == 5 and cells["TRELLIS_FF"] == 7
    assert not any(name.startswith("$") for name in cells)


def test_missing_yosys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("systol_hw.synthesis.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="pip install"):
        estimate(PRESETS["nano"])


@pytest.mark.slow
@pytest.mark.synthesis
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("preset", ["nano", "edge16"])
def test_machines_fit_the_largest_ecp5(preset: str) -> None:
    cells = estimate(PRESETS[preset])
    for name, available in ECP5_85F.items():
        key = "LUT4_total" if name == "LUT4" else name
        assert 0 < cells[key] <= available, f"{key}: {cells[key]} of {available}"
