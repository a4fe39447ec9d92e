"""Operators on one element at a time: sums, products, functions by table."""
