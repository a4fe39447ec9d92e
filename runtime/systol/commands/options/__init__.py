"""Options that several commands have, and how a command is registered."""
