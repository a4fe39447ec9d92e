"""The matrix unit: its loops, and the systolic array."""
