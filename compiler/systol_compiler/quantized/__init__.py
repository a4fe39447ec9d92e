"""The quantized graph: exact integers, decided here and never later."""
