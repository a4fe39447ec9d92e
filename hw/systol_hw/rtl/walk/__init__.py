"""Loops of accesses and beats, and whether an address lies in a buffer."""
