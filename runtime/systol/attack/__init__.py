"""Damaged and hostile files at every door: `python -P -m systol.attack --seed S`."""
