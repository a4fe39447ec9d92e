"""What a valid program computes, in program order: products, and compiled loops."""
