"""Which nodes the machine computes, and which the host."""
