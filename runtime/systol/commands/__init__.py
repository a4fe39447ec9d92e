"""One module for each command of `systol`."""
