"""What is proved, one module for each kind of component."""
