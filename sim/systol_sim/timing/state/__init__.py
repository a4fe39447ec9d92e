"""What a run keeps from cycle to cycle, and the program as a table of numbers."""
