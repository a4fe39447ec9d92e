"""Holds two executors to each other: outputs, tensors, every counter, every start and end."""

from dataclasses import dataclass

import numpy as np

from systol.results.record import RunRecord
from systol_hw.errors import DifferenceError

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How much was compared and found equal."""

    output_values: int
    tensor_values: int
    counters: int
    instruction_times: int


def check_agreement(a: RunRecord, b: RunRecord) -> Agreement:
    """Compare two results of one model on the same inputs.

    Counters and times are compared where both executors have them.

    Raises
    ------
    DifferenceError
        With the first differences: a bug in Systol.
    """
    differences: list[str] = []
    for kind, left, right in (
        ("output", a.outputs, b.outputs),
        ("tensor", a.tensors, b.tensors),
    ):
        for name in sorted(left.keys() | right.keys()):
            if name not in left or name not in right:
                differences.append(f"{kind} {name!r} is missing on one side")
            elif not np.array_equal(left[name], right[name], equal_nan=kind == "output"):
                count = int((left[name] != right[name]).sum())
                differences.append(f"{kind} {name!r} differs in {count} of {left[name].size}")
    counters = times = 0
    for one, other in zip(a.segments, b.segments, strict=True):
        place = f"segment {one.segment.name!r}"
        if one.counters is not None and other.counters is not None:
            differences += [f"{place}: {d}" for d in one.counters.differences(other.counters)]
            counters += sum(
                part.size
                for part in (one.counters.states, one.counters.amounts, one.counters.scalars)
            )
        if one.first.times is not None and other.first.times is not None:
            wrong = np.flatnonzero((one.first.times != other.first.times).any(axis=1))
            differences += [
                f"{place}: instruction {pc} runs {one.first.times[pc].tolist()} and "
                f"{other.first.times[pc].tolist()}"
                for pc in wrong[:_SHOWN]
            ]
            times += one.first.times.size
    if differences:
        more = len(differences) - _SHOWN
        text = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise DifferenceError(
            f"{a.backend.name} and {b.backend.name} differ: {text}. This is a bug in Systol; "
            "please report it with the binary and the input"
        )
    return Agreement(
        output_values=sum(value.size for value in a.outputs.values()),
        tensor_values=sum(value.size for value in a.tensors.values()),
        counters=counters,
        instruction_times=times,
    )


def first_tensor_difference(a: RunRecord, b: RunRecord) -> str:
    """The first tensor, in the order of the segments, that two results of one model have
    differently, and where; "" if there is none."""
    for segment in a.model.machine_segments:
        for binding in (*segment.inputs, *segment.outputs):
            left, right = a.tensors[binding.tensor], b.tensors[binding.tensor]
            wrong = np.argwhere(left != right)
            if len(wrong):
                place = tuple(int(index) for index in wrong[0])
                source = a.model.tensors[binding.tensor].source or binding.tensor
                return (
                    f"tensor {source!r} of segment {segment.name!r} in {len(wrong)} of "
                    f"{left.size} elements, first at {list(place)}: {left[place]} and "
                    f"{right[place]}"
                )
    return ""
