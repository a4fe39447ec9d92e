"""Executors of machine programs: exact simulator, numpy reference, Verilated RTL; the checker."""
