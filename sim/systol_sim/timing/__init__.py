"""Times and counters: what the simulator knows of a program before any value."""
