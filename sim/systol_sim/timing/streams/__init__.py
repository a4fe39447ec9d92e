"""Jumps over steady streams: whole rows, tiles and runs of beats at a time."""
