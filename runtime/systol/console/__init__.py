"""What commands share on the command line: arguments, output, progress, listings."""
