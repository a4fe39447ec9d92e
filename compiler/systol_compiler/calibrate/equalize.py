"""Scales channels between products, so that one scale for a tensor suits all of its channels.

Where a product is followed by another with nothing between that does not commute with positive
factors (Relu, pools, Flatten), a channel can be multiplied in the first and divided in the second
one's weights: the network stays the same. Factors are chosen by a prediction of the noise that
rounding the tensor and the second weights adds to the second result, and only where they take a
good part of it away: as behind a BatchNormalization that was folded forward into the weights.

Ref: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.1; Xiao et al., SmoothQuant, ICML 2023, section 4 (the exponent between the two).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Final

import numpy as np
import numpy.typing as npt

from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.graph.float_graph import Array, Graph, Node
from systol_compiler.graph.forms.clips import clip_bounds

Floats = npt.NDArray[np.float64]

_EXPONENTS: Final = (0.5, 0.75, 1.0)
"""Of the tensor's ranges; what is left to 1 is that of the weights' ranges."""
_KEPT_NOISE: Final = 0.5
"""Predicted noise, relative to that without factors, from which on channels stay as they are."""
_FACTOR_MOST: Final = 2.0**10
_RANGE_LEAST: Final = 2.0**-10
"""Least range of a channel, relative to that of its tensor."""
_SILENT: Final = 4.0
"""How far below the usual weight those of a channel without values are brought."""
_SAMPLES: Final = 8
_POSITIONS_LEAST: Final = 64
"""Elements of a channel in one sample: of fewer, a few samples do not show the range."""
_COMMUTING: Final = frozenset("MaxPool AveragePool GlobalAveragePool GlobalMaxPool".split())
"""Operators between the products that work on each channel by itself and keep its factor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chain:
    """A product, the tensor between, whose channels lie along axis 1, and the products that read
    it, which alone do. `spread` elements of a reader's axis make up a channel."""

    first: Node
    tensor: str
    readers: tuple[Node, ...]
    spread: int


def equalize(graph: Graph, samples: Samples, fixed: Collection[str]) -> Graph:
    """`graph` with factors moved between products; tensors named in `fixed` stay as they are."""
    chains = [
        chain
        for chain in _chains(graph)
        if chain.tensor not in fixed and _positions(graph, chain.tensor) >= _POSITIONS_LEAST
    ]
    if not chains:
        return graph
    ranges, squares = _channel_statistics(graph, [chain.tensor for chain in chains], samples)
    constants: dict[str, Array] = {}
    for chain in chains:
        weights = [_by_channel(graph, constants, reader, chain) for reader in chain.readers]
        factors = _factors(ranges[chain.tensor], squares[chain.tensor], weights)
        if factors is not None:
            _apply(graph, constants, chain, factors)
    return replace(graph, constants={**graph.constants, **constants}) if constants else graph


def _positions(graph: Graph, tensor: str) -> int:
    return prod(graph.types[tensor].shape[2:])


def _chains(graph: Graph) -> list[_Chain]:
    shown = {output.tensor for output in graph.outputs}
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    chains = []
    for node in graph.nodes:
        if not _has_own_weights(node, graph, uses):
            continue
        between, spread = node.outputs[0], 1
        tensor = between
        while True:
            readers = graph.consumers.get(between, [])
            if between in shown or not readers:
                break
            follower = readers[0]
            if len(readers) == 1 and _commutes(follower, graph):
                # The quantized tensor behind the clip is what is rounded.
                between = follower.outputs[0]
                tensor = between if follower.op in ("Clip", "Relu") else tensor
                continue
            if len(readers) == 1 and follower.op == "Flatten" and _flattens(follower, graph):
                spread *= graph.types[between].shape[2] * graph.types[between].shape[3]
                between = follower.outputs[0]
                continue
            if all(
                reader.inputs[0] == between
                and between not in reader.inputs[1:]
                and _has_own_weights(reader, graph, uses)
                for reader in readers
            ):
                chains.append(
                    _Chain(first=node, tensor=tensor, readers=tuple(readers), spread=spread)
                )
            break
    return chains


def _has_own_weights(node: Node, graph: Graph, uses: Mapping[str, int]) -> bool:
    """Whether a node is a Conv or Gemm whose constants nothing else reads."""
    return (
        node.op in ("Conv", "Gemm")
        and len(graph.types[node.outputs[0]].shape) in (2, 4)
        and all(
            not name or (name in graph.constants and uses[name] == 1) for name in node.inputs[1:]
        )
    )


def _commutes(node: Node, graph: Graph) -> bool:
    if node.op in ("Clip", "Relu"):
        bounds = clip_bounds(node, graph)
        return bounds is not None and bounds[0] in (0.0, -inf) and bounds[1] in (0.0, inf)
    return node.op in _COMMUTING and sum(map(bool, node.outputs)) == 1


def _flattens(node: Node, graph: Graph) -> bool:
    axis, rank = int(node.attributes.get("axis", 1)), len(graph.types[node.inputs[0]].shape)
    return axis == 1 and rank == 4


def _channel_statistics(
    graph: Graph, tensors: Sequence[str], samples: Samples
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Greatest magnitude and mean square of each channel, over a few samples."""
    names = tuple(dict.fromkeys(tensors))
    model = FloatModel(graph, names)
    ranges: dict[str, Floats] = {}
    squares: dict[str, Floats] = {}
    kept = samples.first(_SAMPLES)
    for feeds, _ in kept:
        for name, value in model.run(feeds).items():
            by_channel = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            greatest = np.abs(by_channel).max(axis=1).astype(np.float64)
            square = np.einsum("ij,ij->i", by_channel, by_channel) / by_channel.shape[1]
            ranges[name] = np.maximum(ranges.get(name, 0.0), greatest)
            squares[name] = squares.get(name, 0.0) + square.astype(np.float64) / len(kept)
    return ranges, squares


def _by_channel(
    graph: Graph, constants: Mapping[str, Array], reader: Node, chain: _Chain
) -> Array:
    """A reader's weights as [groups, outputs of a group, channels of a group, elements]."""
    name = reader.inputs[1]
    weights = constants.get(name, graph.constants[name])
    groups = int(reader.attributes.get("group", 1))
    shape = (groups, weights.shape[0] // groups, weights.shape[1] // chain.spread, -1)
    return weights.reshape(shape)


def _factors(ranges: Floats, squares: Floats, weights: Sequence[Array]) -> Floats | None:
    """Factors by channel, or None where they gain too little."""
    peaks = np.zeros_like(ranges)
    for each in weights:
        magnitude = np.maximum(each.max(axis=(1, 3)), -each.min(axis=(1, 3)))
        peaks = np.maximum(peaks, magnitude.reshape(-1).astype(np.float64))
    live = (ranges > ranges.max() * _RANGE_LEAST) & (peaks > 0)
    if live.sum() < 2:
        return None
    best, level = None, _KEPT_NOISE * _noise(np.ones_like(ranges), ranges, squares, weights)
    for exponent in _EXPONENTS:
        factors = np.ones_like(ranges)
        factors[live] = peaks[live] ** (1 - exponent) / ranges[live] ** exponent
        middle = np.exp(np.log(factors[live]).mean())
        factors[live] = np.clip(factors[live] / middle, 1 / _FACTOR_MOST, _FACTOR_MOST)
        # A channel that calibration never saw has weights all the same, and often large ones:
        # behind a BatchNormalization that divided by next to nothing. They must not coarsen the
        # steps of the others.
        usual = np.median(peaks[live] / factors[live])
        silent = ~live & (peaks > 0)
        factors[silent] = np.maximum(_SILENT * peaks[silent] / usual, 1 / _FACTOR_MOST)
        found = _noise(factors, ranges, squares, weights)
        if found < level:
            best, level = factors, found
    return best


def _noise(
    factors: Floats, ranges: Floats, squares: Floats, weights: Sequence[Array]
) -> float:
    """Predicted noise power at the readers' results, up to a constant: that of the rounded tensor
    and that of weights rounded in steps of their output channel's greatest."""
    step = (factors * ranges).max() / 255
    total = 0.0
    for each in weights:
        groups, _, channels, taps = each.shape
        by_group = factors.reshape(groups, 1, channels)
        energy = np.einsum("goit,goit->goi", each, each, dtype=np.float64)
        total += step**2 * float((energy / by_group**2).sum())
        magnitude = np.maximum(each.max(axis=3), -each.min(axis=3)).astype(np.float64)
        steps = (magnitude / by_group).max(axis=2) / 127
        power = (by_group[:, 0] ** 2 * squares.reshape(groups, channels)).sum(axis=1) * taps
        total += float((steps**2 * power[:, None]).sum())
    return total


def _apply(
    graph: Graph, constants: dict[str, Array], chain: _Chain, factors: Floats
) -> None:
    """Multiply the first product's channels, and divide in its readers' weights."""
    narrow = factors.astype(np.float32)
    for position, name in enumerate(chain.first.inputs[1:3]):
        if name:
            value = constants.get(name, graph.constants[name])
            shape = (-1,) + (1,) * (value.ndim - 1) if position == 0 else (-1,)
            constants[name] = (value * narrow.reshape(shape)).astype(value.dtype)
    for reader in chain.readers:
        name = reader.inputs[1]
        weights = _by_channel(graph, constants, reader, chain)
        divisors = narrow.reshape(weights.shape[0], 1, weights.shape[2], 1)
        shape = graph.constants[name].shape
        constants[name] = (weights / divisors).reshape(shape).astype(weights.dtype)
