"""Components without a meaning of their own: queues, delays, rotators, memories."""
