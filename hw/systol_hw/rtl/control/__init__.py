"""Instructions on their way: fetch, decoding, dispatch, queues, tokens, start, end and fault."""
