"""Passes that recognize one operator in the many that an export makes of it."""
