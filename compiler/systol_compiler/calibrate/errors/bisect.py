"""Finds the first tensor at which a quantized network leaves another one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np

from systol_compiler.calibrate.errors.error_report import TensorError
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.evaluate import Evaluator, Inputs
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.host import HostLayer

DROP_DB: Final = 6.0
FLOOR_DB: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A tensor much worse than what it is computed from.

    Attributes
    ----------
    before_db
        The least SQNR of the layer's operands; infinite where there is none.
    """

    error: TensorError
    before_db: float

    def __str__(self) -> str:
        where = ", ".join(map(repr, self.error.nodes)) or "the model's input"
        return (
            f"tensor {self.error.tensor!r} of {where}: {self.error.sqnr_db:.1f} dB, from "
            f"{self.before_db:.1f} dB before it"
        )


def departures(
    quantized: QuantizedGraph,
    errors: Sequence[TensorError],
    *,
    drop_db: float = DROP_DB,
    floor_db: float = FLOOR_DB,
) -> tuple[Departure, ...]:
    """Tensors, in graph order, whose SQNR lies below `floor_db` and more than `drop_db` below
    that of the worst operand of their layer. The first one is where to look first.

    `errors` are those of `error_report`.
    """
    by_tensor = {error.tensor: error for error in errors}
    level: dict[str, float] = {}
    found: list[Departure] = []

    def see(name: str, source: str, before: float) -> None:
        """Note how good a tensor is that is computed from tensors no worse than `before`."""
        error = by_tensor.get(source)
        level[name] = before if error is None else error.sqnr_db
        if error is not None and error.sqnr_db < min(before - drop_db, floor_db):
            found.append(Departure(error=error, before_db=before))

    for name in quantized.inputs:
        see(name, name, inf)
    for layer in quantized.layers:
        before = min((level[name] for name in layer.inputs if name in level), default=inf)
        for name in layer.outputs:
            host = isinstance(layer, HostLayer)
            # What is inside a node's layers has no counterpart, and is as good as its operands.
            see(name, name if host else quantized.tensors[name].source, before)
            if not host and quantized.tensors[name].source:
                level[quantized.tensors[name].source] = level[name]
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first tensor that another executor computes otherwise.

    Attributes
    ----------
    index
        Of the first element that differs, in the model's axes.
    expected, found
        Codes there: by definition, and the other executor's.
    count, size
        Elements that differ, of how many.
    """

    tensor: str
    layer: str
    nodes: tuple[str, ...]
    index: tuple[int, ...]
    expected: int
    found: int
    count: int
    size: int

    def __str__(self) -> str:
        where = ", ".join(map(repr, self.nodes)) or repr(self.layer)
        return (
            f"tensor {self.tensor!r} of {where} differs in {self.count} of {self.size} elements, "
            f"first at {list(self.index)}: {self.found} instead of {self.expected}"
        )


Executor = Callable[[str], Array | None] | Mapping[str, Array]
"""Codes of a quantized tensor by name, in the model's axes; None (or no key) where unknown."""


def first_difference(
    quantized: QuantizedGraph, inputs: Inputs, other: Executor
) -> Difference | None:
    """The first quantized tensor, in graph order, that `other` has and has wrong; else None."""
    look = other.get if isinstance(other, Mapping) else other
    for layer, results in Evaluator(quantized).layer_results(inputs):
        if isinstance(layer, HostLayer):
            continue
        for name, expected in results.items():
            found = look(name)
            if found is None:
                continue
            same_shape = found.shape == expected.shape
            wrong = found != expected if same_shape else np.ones(expected.shape, bool)
            if not wrong.any():
                continue
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            return Difference(
                tensor=quantized.tensors[name].source or name, layer=layer.name,
                nodes=layer.source_nodes, index=index, expected=int(expected[index]),
                found=int(found[index]) if same_shape else 0, count=int(wrong.sum()),
                size=expected.size,
            )
    return None
