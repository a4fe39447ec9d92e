"""Runs compiled models: tensors by name, segments in order, on any device."""
