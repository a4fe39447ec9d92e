"""From a machine to Verilog."""

from amaranth.back import verilog

from systol_hw.arch import Arch
from systol_hw.rtl.machine import Machine

__all__ = ["TOP_NAME", "convert_verilog"]

TOP_NAME = "systol_machine"
"""Name of the top module."""


def convert_verilog(arch: Arch, packed: bool) -> str:
    """The Verilog of `arch`'s machine, its top module called `TOP_NAME`.

    Parameters
    ----------
    arch : Arch
    packed : bool
        Recipe of the array's products, see `systol_hw.rtl.array`.
    """
    text: str = verilog.convert(Machine(arch, packed=packed), name=TOP_NAME, emit_src=False)
    return text
