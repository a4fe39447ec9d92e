"""A small program that uses every compiled kernel, so that all are compiled at once."""

import numpy as np

from systol_hw.arch import PRESETS
from systol_hw.isa import instruction
from systol_hw.own_files import own_files
from systol_hw.program import Program, Window, make_program
from systol_sim.jit.compiled import VALUES, note_on_disk
from systol_sim.values.program_values import compute_values


def small_program() -> Program:
    """A program with an instruction of every kind."""
    return make_program(
        PRESETS["nano"],
        [
            instruction("fill", n_last=8),
            instruction("read_weights", k_last=8, n_last=8, row_pitch=8),
            instruction("matmul", p_limit=8, k_last=8),
            instruction("requantize", n_last=8, out_address=64, parameter_address=128),
            instruction("copy", n_last=8, out_address=64, source_ub=1),
            instruction("binary", n_last=8, out_address=64),
            instruction("table", n_last=8, out_address=64, table_address=256),
            instruction("read_host", run_bytes=8),
            instruction("halt"),
        ],
        weight_image=np.zeros(64, np.uint8),
        windows=(Window(name="w", size_bytes=64),),
    )


def compile_values() -> None:
    """Have all kernels of values on disk, if there is a place."""
    program = small_program()
    with own_files():
        compute_values(program, program.initial_windows({}))
    note_on_disk(VALUES)
