"""Chooses ranges by what they cost at the network's results, within a budget of runs.

No measure of a single tensor's error is best for all networks: where outliers carry little, as in
MobileNets, ranges that clip more of them are decibels better at the logits, and elsewhere worse.
So the whole network runs on a few samples under the candidates of each method, and then block by
block under those of the best few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from systol_compiler.calibrate.fake_quantization import FakeQuantizedModel
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.grouping import TensorGroup
from systol_compiler.calibrate.histogram import Distribution, merged
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.calibrate.numbering import mirrored, number_tensors
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.ranges import Method, Range, choose_range, extended
from systol_compiler.graph.float_graph import Array
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.placement.node_cost import elements, node_macs
from systol_compiler.quantized.placement.partition import Partition

_CANDIDATES: Final[tuple[tuple[Method, float], ...]] = (
    ("auto", 0.0), ("robust", 0.0), ("percentile", 99.99), ("percentile", 99.999), ("minmax", 0.0),
    ("entropy", 0.0),
)  # fmt: skip
"""Method and percentile; of equals the first is taken."""
_BUDGET_MACS: Final = 1 << 37
"""Work of all runs together. Budgets count work and not time, so that results are the same
everywhere."""
_ELEMENT_MACS: Final = 64
"""What an element of a tensor costs beside the products."""
_SAMPLES_MOST: Final = 16
_RUNNERS_UP: Final = 2
"""Candidates, besides the best, that blocks are tried with."""
_GAIN: Final = 0.02
"""Share of the noise that a block's other candidate must take away: less is chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """A sample with what the float model makes of it."""

    feeds: Mapping[str, Array]
    results: Mapping[str, Array]


def select_ranges(
    parts: Partition,
    groups: Sequence[TensorGroup],
    seen: Mapping[str, Distribution],
    samples: Samples,
    options: QuantizationOptions,
) -> list[Range | None]:
    """A range for each group, by the least error at the machine's last tensors.

    Errors of several results count by the logarithm of noise over signal.
    """
    results = _results(parts)
    distributions = [merged([seen[name] for name in group.observed]) for group in groups]
    candidates = [
        _candidates(mirrored(seen_here) if group.symmetric else seen_here, group)
        for group, seen_here in zip(groups, distributions, strict=True)
    ]
    plain = [spans[0] for spans in candidates]
    runs = _affordable_runs(parts)
    if runs < 2 or not results:
        return [*plain]
    count = min(_SAMPLES_MOST, max(1, runs // (2 * len(_CANDIDATES))))
    references = _references(parts, results, samples, count)
    model = FakeQuantizedModel(parts.graph, groups, results)

    def noise(spans: Sequence[Range]) -> float:
        numbers = number_tensors(groups, seen, options, spans).numbers
        return _noise(model, references, numbers)

    left = runs // len(references)
    tried = list(range(min(len(_CANDIDATES), left)))
    scores = {index: noise([spans[index] for spans in candidates]) for index in tried}
    order = sorted(tried, key=lambda index: (scores[index], index))
    best = [spans[order[0]] for spans in candidates]
    level = scores[order[0]]
    others = order[1 : 1 + _RUNNERS_UP]
    blocks = min(len(groups), (left - len(tried)) // max(len(others), 1))
    for block in range(blocks):
        place = range(block * len(groups) // blocks, (block + 1) * len(groups) // blocks)
        for other in others:
            changed = list(best)
            for index in place:
                changed[index] = candidates[index][other]
            if changed == best:
                continue
            found = noise(changed)
            if found < level + np.log(1 - _GAIN):
                best, level = changed, found
    return [*best]


def _candidates(seen: Distribution, group: TensorGroup) -> list[Range]:
    """One range for each of `_CANDIDATES`."""
    spans = [choose_range(seen, method, percentile) for method, percentile in _CANDIDATES]
    return [extended(seen, span, group.limits) for span in spans]


def _noise(
    model: FakeQuantizedModel, references: Sequence[_Reference], numbers: Mapping[str, Numbers]
) -> float:
    """Mean over the results of the logarithm of noise over signal."""
    signal = np.zeros(len(model.results))
    error = np.zeros(len(model.results))
    for reference in references:
        found = model.run(reference.feeds, numbers)
        for index, (name, value) in enumerate(zip(model.results, found, strict=True)):
            real = reference.results[name].astype(np.float64)
            signal[index] += np.vdot(real, real)
            error[index] += ((value - real) ** 2).sum()
    tiny = np.finfo(np.float64).tiny
    return float(np.mean(np.log(np.maximum(error, tiny) / np.maximum(signal, tiny))))


def _references(
    parts: Partition, results: Sequence[str], samples: Samples, count: int
) -> list[_Reference]:
    model = FloatModel(parts.graph, results)
    return [
        _Reference(feeds=feeds, results=model.run(feeds))
        for feeds, _ in samples.kept(count)
    ]


def _results(parts: Partition) -> list[str]:
    """Tensors of the machine that no other machine node reads."""
    read = {name for unit in parts.machine for name in unit.node.inputs}
    return [unit.output for unit in parts.machine if unit.output not in read]


def _affordable_runs(parts: Partition) -> int:
    graph = parts.graph
    work = sum(
        node_macs(node, graph) + _ELEMENT_MACS * elements(node, graph) for node in graph.nodes
    )
    return _BUDGET_MACS // max(work, 1)
