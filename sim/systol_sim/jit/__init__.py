"""Functions that numba compiles: how they are kept on disk, and interrupted."""
