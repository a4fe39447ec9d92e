"""What makes nests: the builder, and a module for each kind of product or copy."""
