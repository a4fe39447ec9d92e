"""The units LOAD and STORE."""
