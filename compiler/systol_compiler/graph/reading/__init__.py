"""From a file to a graph: the model's bytes, its nodes in order, rules, control flow."""
