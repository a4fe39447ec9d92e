"""Reads the text of every level: one parser a level, over one grammar (`systol_compiler.text`)."""
