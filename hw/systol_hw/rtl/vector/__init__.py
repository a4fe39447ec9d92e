"""The vector unit: its loops, its parameters, its lanes and their arithmetic."""
