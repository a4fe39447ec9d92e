"""Properties of the RTL's queues, tokens, ports, buffers and decoder, and their formal proofs."""
