"""Every proof."""

from systol_hw.formal.proof import Proof
from systol_hw.formal.properties import (
    decoder,
    host_sync,
    memory_port,
    port_deliveries,
    queues,
    store_buffer,
    tokens,
    unified_buffer,
    units,
    weight_fifo,
    write_buffer,
)

__all__ = ["PROOFS"]

PROOFS: tuple[Proof, ...] = (
    *queues.PROOFS,
    *tokens.PROOFS,
    *units.PROOFS,
    *host_sync.PROOFS,
    *write_buffer.PROOFS,
    *store_buffer.PROOFS,
    *weight_fifo.PROOFS,
    *memory_port.PROOFS,
    *port_deliveries.PROOFS,
    *unified_buffer.PROOFS,
    *decoder.PROOFS,
)
"""All proofs, smallest parts first."""
