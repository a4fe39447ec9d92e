"""The RTL as an executor: in Amaranth's simulator, and built by Verilator."""
