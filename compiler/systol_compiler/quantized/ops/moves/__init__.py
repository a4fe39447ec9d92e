"""Operators that move values: shapes, slices, copies."""
