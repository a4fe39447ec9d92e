"""What units share: memory ports, the unified buffer, the accumulators."""
