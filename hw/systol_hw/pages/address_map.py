"""The reference page of the address map, from its table."""

from systol_hw.tables.address_map import ADDRESS_BITS, ADDRESS_MAP, BASE_ALIGNMENT_BYTES


def address_map_page() -> str:
    """The reference page, docs/address_map.md."""
    rows = "\n".join(
        f"| `{r.offset:#05x}` | `{r.name}` | {r.access.value} | {r.width} | {r.doc} |"
        for r in ADDRESS_MAP
    )
    return f"""\
# Address map

Generated from `systol_hw.tables.address_map`; `make docs-check` says when it is stale.

`systol_hw.rtl.bus.axi_machine` is the machine with standard interfaces: an AXI4-Lite slave
`s_axil_*` for a host, and an AXI4 master for each memory port, `m_axi_weight_*` and `m_axi_host_*`.
This page is what the host sees at the slave: 32-bit words at byte offsets;
{1 << ADDRESS_BITS} bytes in all.

- A write takes all four bytes (`wstrb` = 15). It is answered SLVERR, and does nothing, if it does
  not, if no register that can be written stands there, or if the machine is busy; only `control`
  can be written then.
- A read is answered SLVERR if no register that can be read stands there. Bits beyond a register's
  width read 0.
- A run: write the memories' addresses and the configuration, then 1 to `control`. It has ended when
  `status` says halted or faulted; then read the counters (docs/counters.md lists groups and codes):
  write `counter_address`, read `counter_low` and `counter_high`.
- Memories are at any multiple of {BASE_ALIGNMENT_BYTES} in the address space of their master: an
  access's address is the memory's plus the offset of its beat. Beats are single transfers of the
  port's width, all with id 0.

| offset | register | access | bits | |
|---|---|---|---|---|
{rows}
"""
