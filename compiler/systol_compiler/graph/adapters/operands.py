"""What adapters ask of operands, and add to them."""

from collections.abc import Sequence

import numpy as np

from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError


def int64_constant(trace: Trace, call: Call, part: str, values: Sequence[int]) -> str:
    """A new constant of integers that belongs to `call`."""
    return trace.constant(f"{call.name}.{part}", np.array(values, dtype=np.int64))


def axis_of(call: Call, axis: int, rank: int) -> int:
    """`axis` counted from the front.

    Raises
    ------
    InputError
        There is no such axis.
    """
    if not -rank <= axis < rank:
        raise InputError(
            f"{call.place}: axis must be between {-rank} and {rank - 1}, but is {axis}; export "
            "the model again"
        )
    return axis % rank
