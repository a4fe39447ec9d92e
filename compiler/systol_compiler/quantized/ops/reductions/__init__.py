"""Operators over windows, axes and neighbouring channels."""
