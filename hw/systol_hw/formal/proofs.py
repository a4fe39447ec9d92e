"""Every proof."""

from systol_hw.formal import (
    decoder,
    memory_port,
    port_deliveries,
    queues,
    tokens,
    unified_buffer,
    units,
)
from systol_hw.formal.proof import Proof

__all__ = ["PROOFS"]

PROOFS: tuple[Proof, ...] = (
    *queues.PROOFS,
    *tokens.PROOFS,
    *units.PROOFS,
    *memory_port.PROOFS,
    *port_deliveries.PROOFS,
    *unified_buffer.PROOFS,
    *decoder.PROOFS,
)
"""All proofs, smallest parts first."""
