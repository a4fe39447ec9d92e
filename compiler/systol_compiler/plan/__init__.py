"""Decisions: how nests are cut, what lies where and for how long, what streams."""
