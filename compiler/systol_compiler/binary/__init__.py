"""Compiled models: their parts, the file that holds them, and every check of both."""
