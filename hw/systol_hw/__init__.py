"""The machine: its parameters (`arch`), its instruction set (`isa`) and its RTL (`rtl`)."""
