"""The reference executor: plain numpy, one instruction after the other."""

from systol_sim.reference.executor import run

__all__ = ["run"]
