"""What is known of a graph while it is read: names in scope, tensors, values, blockers."""
