"""The FPGA estimate."""

import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import MissingToolError
from systol_hw.synthesis import (
    BLOCK_RAM,
    DISTRIBUTED_MEMORY,
    ECP5_85F,
    by_memory,
    cells_of,
    estimate,
)


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


def test_cells_are_counted_by_the_memory_they_hold() -> None:
    listing = "top/a.bank_0.memory.0.0\ntop/a.bank_0.memory.0.1\ntop/b.1.2\n"
    assert by_memory(listing) == {"a.bank_0.memory": 2, "b": 1}
    assert by_memory("") == {}


@pytest.mark.slow
@pytest.mark.synthesis
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("preset", ["nano", "edge16"])
def test_machines_fit_the_largest_ecp5(preset: str) -> None:
    arch = PRESETS[preset]
    result = estimate(arch)
    # A chip whose LUTs are all taken cannot be routed: 70 % are for the machine.
    limits = ECP5_85F | {"LUT4": ECP5_85F["LUT4"] * 7 // 10}
    for name, available in limits.items():
        key = "LUT4_total" if name == "LUT4" else name
        assert 0 < result.cells[key] <= available, f"{key}: {result.cells[key]} of {available}"

    # Every buffer is in block RAM, whole: unified buffer, accumulators, weight FIFO and tables.
    assert sum(result.block_ram.values()) == result.cells[BLOCK_RAM]
    assert sum(result.distributed_memory.values()) == result.cells[DISTRIBUTED_MEMORY]
    halves = ("even", "odd")
    buffers = {
        *(f"unified_buffer.bank_{n}_{h}.memory" for n in range(arch.ub_banks) for h in halves),
        *(f"accumulators.bank_{n}.memory" for n in range(2)),
        *(f"core.weights_engine.fifo.memory_{n}" for n in range(arch.columns)),
        *(f"core.vector_engine.lanes.table_{n}.{h}" for n in range(arch.vector_lanes)
          for h in halves),
    }  # fmt: skip
    assert buffers <= result.block_ram.keys()
    assert not buffers & result.distributed_memory.keys()
