"""One cycle of each part of the machine, its loops, and the jump over idle cycles."""
