"""`python -P -m systol_sim.precompile [PART ...]`: numba's compilation, ahead of the first use.

Without arguments it compiles every part that is not on disk, and says so.
"""

import sys
import threading
import time

from systol_sim.jit.compiled import NAMES, STEPPER, STREAMS, VALUES, is_on_disk
from systol_sim.simulator import step
from systol_sim.timing.state.instruction_table import build_table
from systol_sim.values.compile_values import compile_values, small_program


def precompile(parts: list[str]) -> None:
    """Compile `parts` (`systol_sim.jit.compiled`) by using them on a small program."""
    program = small_program()
    table = build_table(program)
    for part in parts:
        if part == VALUES:
            compile_values()
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
