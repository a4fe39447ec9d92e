"""Planted mistakes: how they are made and tried, and which of them nothing can notice."""
