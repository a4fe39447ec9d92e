"""From planned tasks to a program: order, instruction fields, tokens, weight image, debug map."""
