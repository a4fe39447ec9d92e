"""What the float model's tensors look like on calibration data: one run, bounded memory."""

from collections.abc import Iterable
from math import prod
from typing import Final

from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.histogram import Distribution, Histogram
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.graph.float_graph import Graph
from systol_hw.errors import InputError

_OBSERVED_BYTES: Final = 1 << 28
"""Of observed tensors that are in memory at once; more of them run the model again."""


def collect(graph: Graph, samples: Samples, tensors: Iterable[str]) -> dict[str, Distribution]:
    """The distribution of each of `tensors` (float32) over all samples.

    Raises
    ------
    InputError
        A tensor of the float model overflows or is NaN on these samples.
    """
    histograms = {name: Histogram() for name in tensors}
    models = [FloatModel(graph, group) for group in _groups(graph, histograms)]
    if not models:
        return {}
    for feeds, rows in samples.runs():
        for model in models:
            for name, value in model.run(feeds).items():
                # Rows that only fill a batch up do not count, where rows are samples.
                own = value[:rows] if value.shape and value.shape[0] >= rows else value
                if not histograms[name].add(own):
                    raise InputError(
                        f"tensor {name!r}: the float model must stay finite on the calibration "
                        "data, but gives NaN or infinity; check the samples and the model's "
                        "weights"
                    )
    return {name: histogram.distribution() for name, histogram in histograms.items()}


def _groups(graph: Graph, tensors: Iterable[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name in tensors:
        size = 4 * prod(graph.types[name].shape)
        if size > room or not groups:
            groups.append([])
            room = _OBSERVED_BYTES
        groups[-1].append(name)
        room -= size
    return groups
