"""How good a quantized model is: against labels, and beside the float model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log10
from typing import Any

import numpy as np

from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.graph.float_graph import Graph
from systol_compiler.numbers.limits import Array
from systol_hw.errors import InputError

_FIRST = 5
"""Places that count for top-5."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures of one output by name, `{"top-1": 0.98, ...}`; shares, decibels or real units."""

    output: str
    figures: Mapping[str, float] = field(default_factory=dict)


def against_labels(name: str, values: Array, labels: Array) -> Score:
    """Scores of an output by what is right.

    Integer labels are classes: one for each place of the output but its classes, which are its
    last axis, or the one behind the items (as of images). Anything else must have the output's
    shape, and gives the error.

    Raises
    ------
    InputError
        The labels have another shape.
    """
    values = values.reshape(_without_ones(values.shape, labels.ndim + 1))
    if labels.dtype.kind in "iub":
        if values.shape[:-1] == labels.shape:
            return Score(output=name, figures=_accuracy(values, labels))
        if values.ndim > 1 and (values.shape[0], *values.shape[2:]) == labels.shape:
            return Score(output=name, figures=_accuracy(np.moveaxis(values, 1, -1), labels))
    if values.shape == labels.shape:
        error = values.astype(np.float64) - labels
        return Score(
            output=name,
            figures={
                "root mean square error": float(np.sqrt((error**2).mean())),
                "greatest error": float(np.abs(error).max()),
            },
        )
    raise InputError(
        f"output {name!r} of shape {list(values.shape)} cannot be judged by labels of type "
        f"{labels.dtype} and shape {list(labels.shape)}: give one class for each item, or values "
        "of the output's shape"
    )


def beside_float(name: str, values: Array, real: Array) -> Score:
    """How near an output is to the float model's: signal to noise, and how often its greatest
    value is at the same place of the last axis."""
    wide = real.astype(np.float64)
    noise = float(((values.astype(np.float64) - wide) ** 2).sum())
    signal = float((wide**2).sum())
    figures: dict[str, float] = {}
    if noise > 0 and signal > 0:
        figures["signal to noise, dB"] = 10 * log10(signal / noise)
    flat = real.reshape(_without_ones(real.shape, 2))
    if flat.ndim > 1 and flat.shape[-1] > 1:
        same = flat.argmax(-1) == values.reshape(flat.shape).argmax(-1)
        figures["top-1 agreement"] = float(same.mean())
    return Score(output=name, figures=figures)


def float_outputs(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the float model by name, for any number of items.

    Parameters
    ----------
    graph
        A float graph whose inputs and outputs begin with a batch dimension, or are of exactly the
        given shapes.
    """
    names = {item.tensor for item in graph.outputs}
    model = FloatModel(graph, names)
    batch = graph.types[graph.inputs[0]].shape[:1]
    counts = {len(value) for value in inputs.values() if value.ndim}
    shaped = all(inputs[n].shape == graph.types[n].shape for n in graph.inputs)
    if shaped or not batch or len(counts) != 1:
        found = model.run(_typed(graph, inputs))
        return {item.name: found[item.tensor] for item in graph.outputs}
    (count,), (size,) = counts, batch
    parts: dict[str, list[Array]] = {}
    for start in range(0, count, size):
        piece = {name: value[start : start + size] for name, value in inputs.items()}
        rows = len(next(iter(piece.values())))
        full = {
            name: np.concatenate([v, np.repeat(v[-1:], size - rows, axis=0)])
            for name, v in piece.items()
        }
        found = model.run(_typed(graph, full))
        for item in graph.outputs:
            value = found[item.tensor]
            counted = value.shape[:1] == batch
            parts.setdefault(item.name, []).append(value[:rows] if counted else value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _typed(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {n: inputs[n].astype(np.dtype(graph.types[n].dtype), copy=False) for n in graph.inputs}


def _accuracy(values: Array, labels: Array) -> dict[str, float]:
    """Shares of right answers, classes in the last axis."""
    classes = values.shape[-1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"labels must lie in 0..{classes - 1}, as the output has {classes} classes; found "
            f"{labels.min()} to {labels.max()}"
        )
    figures = {"top-1": float((values.argmax(-1) == labels).mean())}
    if classes > _FIRST:
        # How many values are greater than the right class's; ties go to it.
        right = np.take_along_axis(values, labels[..., None].astype(np.int64), -1)
        figures["top-5"] = float(((values > right).sum(-1) < _FIRST).mean())
    return figures


def _without_ones(shape: tuple[int, ...], least: int) -> tuple[int, ...]:
    """`shape` without ones at its end, as long as it has more than `least` axes."""
    while len(shape) > least and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def saturated_share(report: Mapping[str, Any]) -> float | None:
    """The share of results that saturated, by a run's counters; None where they are not known."""
    amounts = report["units"]["vector"]["amounts"]
    elements = amounts.get("elements", {"value": 0})["value"]
    if "saturations" not in amounts or not elements:
        return None
    return float(amounts["saturations"]["value"] / elements)
