"""What one unit does, without addresses: loops of the matrix or vector unit over boxes."""
