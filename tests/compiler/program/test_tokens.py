"""The compiler's tokens: none can be left out.

Each token (a wait and its signal together), drain bit and barrier of a compiled program is removed
by itself. Whether that matters is decided by brute force over all paths and all pairs of accesses,
and the static checker must refuse exactly where it does.
"""

import dataclasses

import numpy as np
import pytest

from ordering_oracle import closure, conflicting_pairs, removals
from systol.bundled import MODEL_NAMES, calibration_images, model_path
from systol_compiler.compile import compile_model
from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import decode
from systol_hw.program import Program, make_program
from systol_sim.validity.checker import find_violations

NANO = PRESETS["nano"]
MACHINES = {
    "nano": NANO,
    # Small counters and buffers: some tokens only keep a producer from running ahead.
    "4x4": dataclasses.replace(
        NANO, name="four", rows=4, columns=4, vector_lanes=4, token_limit=1, ub_bytes=8192,
        accumulator_rows=64,
    ),
}  # fmt: skip


def compiled(model: str, arch: Arch) -> Program:
    model_of = compile_model(model_path(model), arch=arch, calibration=calibration_images())
    (segment,) = model_of.machine_segments
    return segment.program


@pytest.mark.parametrize(
    ("machine", "step"),
    [("nano", 1), pytest.param("4x4", 5, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_compiled_program_without_a_necessary_token_is_refused(
    model: str, machine: str, step: int
) -> None:
    arch = MACHINES[machine]
    program = compiled(model, arch)
    items = [decode(row.tobytes()) for row in program.code]
    pairs = np.array(conflicting_pairs(items, arch)).T
    assert closure(items).ends_before_start[*pairs].all()
    tried = removals(items)[::step]
    assert len(tried) > 30
    for removal in tried:
        # Barriers, which would move the instructions behind them, the compiler made none.
        assert len(removal.items) == len(items)
        left = closure(removal.items)
        unordered = pairs[:, ~left.ends_before_start[*pairs]].T.tolist()
        overflows = left.greatest_count() > arch.token_limit
        # Otherwise the token was redundant, and the compiler makes none such.
        assert unordered or overflows, removal.what
        code = make_program(arch, removal.items).code
        found = find_violations(dataclasses.replace(program, code=code))
        assert found and {v.rule for v in found} <= {"9.2", "9.3"}, removal.what
        if unordered:
            # Named by one of the pairs that are no longer in order.
            assert any([v.other_pc, v.pc] in unordered for v in found), removal.what
