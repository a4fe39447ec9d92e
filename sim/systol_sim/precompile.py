"""`python -P -m systol_sim.precompile [PART ...]`: numba's compilation, ahead of the first use.

Without arguments it compiles every part that is not on disk, and says so.
"""

import sys
import threading
import time

import numpy as np

from systol_hw.arch import PRESETS
from systol_hw.isa import instruction
from systol_hw.own_files import own_files
from systol_hw.program import Window, make_program
from systol_sim.compiled import NAMES, STEPPER, STREAMS, VALUES, is_on_disk, note_on_disk
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
            with own_files():
                compute_values(program, program.initial_windows({}))
            note_on_disk(VALUES)
        elif part in (STEPPER, STREAMS):
            step(program, table, streams=part == STREAMS)
        else:
            raise SystemExit(f"precompile: {part} is none of {STEPPER}, {STREAMS}, {VALUES}")


def precompile_missing() -> None:
    """Compile every part that is not on disk, with a line for each on stderr."""
    for part, name in NAMES.items():
        if not is_on_disk(part):
            print(f"compiling {name}, once ...", end=" ", file=sys.stderr, flush=True)
            began = time.monotonic()
            ended = threading.Event()
            threading.Thread(target=_say_dots, args=(ended,), daemon=True).start()
            try:
                precompile([part])
            finally:
                ended.set()
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _say_dots(ended: threading.Event) -> None:
    while not ended.wait(_PACE_SECONDS):
        print(".", end=" ", file=sys.stderr, flush=True)


_PACE_SECONDS = 4.0


if __name__ == "__main__":
    if sys.argv[1:]:
        precompile(sys.argv[1:])
    else:
        precompile_missing()
