"""Systol: compile a neural network for an open 8-bit TPU, run it and read its counters."""
