"""The float graph: reading ONNX, folding what is constant, and rewriting to canonical forms."""
