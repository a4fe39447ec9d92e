"""The weights unit: its loops, and the weight FIFO."""
