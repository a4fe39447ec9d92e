"""The RTL for random programs: one build of each machine, whatever a program's port timing is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import Pool

import numpy as np

from systol_hw.arch import Arch
from systol_hw.program import Program
from systol_hw.safe_children import safe_children
from systol_hw.termination import end_in_order
from systol_sim.building import unobserved
from systol_sim.hardware.verilated.build import model_library
from systol_sim.hardware.verilated.runner import run
from systol_sim.random_programs.faulting import FAULT_WATCHDOG_CYCLES
from systol_sim.results import RunResult


def build_machines(
    machines: Sequence[Arch], processes: int, progress: Callable[[int], None]
) -> None:
    """Build the models of `machines` side by side, so that no two processes build the same one.

    `progress` is called with the number of machines that are ready.
    """
    build = partial(model_library, packed=True)
    with safe_children(), Pool(processes, _begin) as pool:
        for done, _ in enumerate(pool.imap_unordered(build, machines), start=1):
            progress(done)


def _begin() -> None:
    """What each process of the pool does first."""
    unobserved()
    end_in_order()


def run_on_built(
    program: Program, contents: Mapping[str, np.ndarray], *, built: Mapping[str, Arch]
) -> RunResult:
    """Run `program` on the machine of its name in `built`, its ports set to the program's.

    A program of another machine runs on its own.
    """
    arch = program.arch
    own = dataclasses.replace(program, arch=built.get(arch.name, arch))
    return run(
        own, contents, checked=True, watchdog_cycles=FAULT_WATCHDOG_CYCLES,
        weight_port=arch.weight_port, host_port=arch.host_port,
    )
