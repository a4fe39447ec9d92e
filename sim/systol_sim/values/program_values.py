"""The values of a valid program, computed in program order: the fast half of the simulator.

Products go to the matrix library (`matrix_values`), everything else to compiled loops. Shares no
arithmetic with `systol_sim.reference`.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from systol_hw.arch import WINDOWS
from systol_hw.isa import Instruction, decode
from systol_hw.isa.choices import ResultWidth
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.program import Program
from systol_hw.tables.faults import Unit
from systol_sim.values import vector_kernels
from systol_sim.values.matrix_plan import MatrixPlan, arguments, plan_matrix
from systol_sim.values.matrix_values import MatrixValues
from systol_sim.values.transfer_kernels import TRANSFER_FIELDS, span, transfer


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """Final memories, and per instruction the counts that depend on values.

    Parameters
    ----------
    ub, accumulators, weight, windows
        uint8 (ub_bytes,), int32 (accumulator_rows, columns), uint8, list of uint8.
    overflows, saturations
        int64 (instructions,).
    """

    ub: np.ndarray
    accumulators: np.ndarray
    weight: np.ndarray
    windows: list[np.ndarray]
    overflows: np.ndarray
    saturations: np.ndarray


def compute_values(
    program: Program, windows: list[np.ndarray], *, stepwise: bool = False
) -> Values:
    """Execute a valid `program` in program order; `windows` are changed in place.

    With `stepwise` every accumulation is made and counted by itself; the results are the same (a
    test's concern).
    """
    return _Machine(program, windows, stepwise).run()


_PLANS: WeakKeyDictionary[Program, tuple[list[Instruction], MatrixPlan]] = WeakKeyDictionary()


def _plan(program: Program) -> tuple[list[Instruction], MatrixPlan]:
    """The instructions of `program` and their products, worked out once: a program's arrays are
    never changed."""
    if program not in _PLANS:
        items = [decode(word.tobytes()) for word in program.code]
        _PLANS[program] = items, plan_matrix(items, program.arch)
    return _PLANS[program]


class _Machine:
    def __init__(self, program: Program, windows: list[np.ndarray], stepwise: bool) -> None:
        arch = program.arch
        self.arch, self.windows = arch, windows
        self.items, plan = _plan(program)
        self.ub = np.zeros(arch.ub_bytes, np.uint8)
        self.weight = program.initial_weight_memory()
        self.matrix = MatrixValues(arch, plan, self.ub, self.weight, stepwise=stepwise)
        self.overflows = np.zeros(len(self.items), np.int64)
        self.saturations = np.zeros(len(self.items), np.int64)

    def run(self) -> Values:
        for pc, item in enumerate(self.items):
            if item.unit in (Unit.LOAD, Unit.STORE):
                self._transfer(item)
            elif item.unit is Unit.WEIGHTS:
                self.matrix.load(pc)
            elif item.unit is Unit.MATRIX:
                self.overflows[pc] = self.matrix.multiply(pc)
            elif item.unit is Unit.VECTOR:
                self._vector(item, pc)
        return Values(
            ub=self.ub,
            accumulators=self.matrix.accumulators,
            weight=self.weight,
            windows=self.windows,
            overflows=self.overflows,
            saturations=self.saturations,
        )

    def _transfer(self, item: Instruction) -> None:
        memory = self.weight
        if "window" in item.fields:
            alternate = item.operation.name.endswith("_alternate")
            memory = self.windows[item["window"] + (WINDOWS if alternate else 0)]
        loads = item.unit is Unit.LOAD
        transfer(memory, self.ub, arguments(item, TRANSFER_FIELDS), loads)
        if loads:
            self.matrix.written(*span(
                item["ub_address"], item["run_bytes"],
                (item["count0"], item["ub_stride0"]), (item["count1"], item["ub_stride1"]),
            ))

    def _vector(self, item: Instruction, pc: int) -> None:
        name, columns = item.operation.name, self.arch.columns
        if name == "binary":
            fields = arguments(item, vector_kernels.BINARY_FIELDS)
            self.saturations[pc] = vector_kernels.binary(self.ub, columns, fields)
        elif name == "table":
            fields = arguments(item, vector_kernels.TABLE_FIELDS)
            self.saturations[pc] = vector_kernels.table(self.ub, columns, fields)
        else:
            fields = arguments(item, vector_kernels.WINDOW_FIELDS)
            if name == "fill":
                # The zero point is written as it is.
                fields[vector_kernels.LOW], fields[vector_kernels.HIGH] = -128, 127
            accumulators = self.matrix.accumulators
            if name == "requantize":
                self.overflows[pc], self.saturations[pc] = vector_kernels.requantize(
                    self.ub, accumulators, fields
                )
            else:
                vector_kernels.copy(self.ub, accumulators, fields, name == "fill")
        planes = ResultWidth(item["width"]).planes
        self.matrix.written(*span(
            item["out_address"], columns,
            (item["n_count"], item["out_n_step"]), (item["y_count"], item["out_y_step"]),
            (item["x_count"], item["out_x_step"]),
            (planes, PLANE_UNIT_BYTES * item["out_plane_step"]),
        ))
