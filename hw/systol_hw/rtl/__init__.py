"""The machine in Amaranth. `machine.Machine` is the top; docs/timing.md is its specification."""
