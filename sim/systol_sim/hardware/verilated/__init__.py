"""The RTL as an executor: built by Verilator, whole programs per call."""

from systol_sim.hardware.verilated.runner import run

__all__ = ["run"]
