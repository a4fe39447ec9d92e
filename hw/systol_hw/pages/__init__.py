"""The reference pages that restate the machine's tables."""
