"""The text of all levels: one grammar, printed and parsed from the fields that classes declare."""
