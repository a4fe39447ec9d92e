"""Whether a program is valid: what instructions touch, in which order, and whether it ends."""
