"""Accelerator binaries: ELF files that hold a `CompiledModel` (docs/binary.md)."""
