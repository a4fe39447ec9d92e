"""What numbers are: ranges, scales, multipliers, and the tensors that hold them."""
