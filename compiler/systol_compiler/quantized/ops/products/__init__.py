"""Operators that are matrix products."""
