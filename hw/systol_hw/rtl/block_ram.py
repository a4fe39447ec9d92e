"""What the machine's memories promise their synthesis tool, and ask of it."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BLOCK_RAM", "NO_COLLISIONS"]

NO_COLLISIONS: Mapping[str, int] = MappingProxyType({"no_rw_check": 1})
"""Attributes of a memory in which nobody uses a byte read in the cycle in which it is written.

Without them a synthesis tool must add registers and comparators that give such a read the old
value, as simulation does: block RAM itself leaves it open. What valid programs read is never being
written (docs/timing.md, 9.2), and queues do not show an item before the cycle after its write.
"""

BLOCK_RAM: Mapping[str, int | str] = MappingProxyType({**NO_COLLISIONS, "ram_style": "block"})
"""Attributes of a buffer whose memories are small one by one: block RAM all the same, since many of
them in logic would cost more than the part has to spare."""
