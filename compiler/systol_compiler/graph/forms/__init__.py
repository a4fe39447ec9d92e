"""Canonical forms: passes that bring what says the same to one form."""
