"""What a network is calibrated with: arrays, images, and how they become tensors."""
