"""The operators of the machine: one module each, found by `operator.registry`."""
