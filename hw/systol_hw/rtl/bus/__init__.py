"""The machine with standard interfaces: AXI4 memories and an AXI4-Lite host."""
