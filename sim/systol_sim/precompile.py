"""`python -m systol_sim.precompile PART ...`: numba's compilation, ahead of the first use."""

import sys

import numpy as np

from systol_hw.arch import PRESETS
from systol_hw.isa import instruction
from systol_hw.program import Window, make_program
from systol_sim.compiled import STEPPER, STREAMS, VALUES, note_on_disk
from systol_sim.instruction_table import build_table
from systol_sim.simulator import step
from systol_sim.values import compute_values


def precompile(parts: list[str]) -> None:
    """Compile `parts` (`systol_sim.compiled`) by using them on a small program."""
    arch = PRESETS["nano"]
    program = make_program(
        arch,
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
    table = build_table(program)
    for part in parts:
        if part == VALUES:
            compute_values(program, program.initial_windows({}))
            note_on_disk(VALUES)
        elif part in (STEPPER, STREAMS):
            step(program, table, streams=part == STREAMS)
        else:
            raise SystemExit(f"precompile: {part} is none of {STEPPER}, {STREAMS}, {VALUES}")


if __name__ == "__main__":
    precompile(sys.argv[1:])
