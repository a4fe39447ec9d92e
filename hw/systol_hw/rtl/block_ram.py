"""What every block RAM of the machine promises its synthesis tool."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["NO_COLLISIONS"]

NO_COLLISIONS: Mapping[str, int] = MappingProxyType({"no_rw_check": 1})
"""Attributes of a memory in which nobody uses a byte read in the cycle in which it is written.

Without them a synthesis tool must add registers and comparators that give such a read the old
value, as simulation does: block RAM itself leaves it open. What valid programs read is never being
written (docs/timing.md, 9.2), and queues do not show an item before the cycle after its write.
"""
