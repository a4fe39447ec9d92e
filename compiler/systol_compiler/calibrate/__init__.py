"""From a float graph and samples to a quantized graph, and what that costs in accuracy."""
