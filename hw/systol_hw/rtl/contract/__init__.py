"""What parts of the machine agree on: interfaces, widths, the layout of instructions."""
