"""What is encoded but instructions: units and faults, counters, registers, the address map."""
