"""Nodes of older operator sets and special forms, rewritten as they are read."""
