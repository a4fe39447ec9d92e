"""InstanceNormalization and GroupNormalization of images and sequences (`normalization`).

A mean over a group of channels is two sums: over all positions of a channel, then over the channels
of a group. The second has its result for every channel, so that it meets the image as that of
InstanceNormalization does: it is a product with a constant matrix of ones and zeros.
"""

from fractions import Fraction
from math import prod

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.reductions.channel_sets import add_channel_sets
from systol_compiler.quantized.ops.reductions.layer_norm import EPSILON
from systol_compiler.quantized.ops.reductions.normalization import (
    Rows,
    add_normalization,
    rows_over,
)
from systol_compiler.quantized.ops.reductions.row_reduce import add_sum, reduced_shape

_LONGEST = 65_000
"""Positions of a channel: what exact sums of 16 bits hold."""
_WIDEST = 65_000
"""Channels of a group, likewise."""


def _groups(node: Node, graph: Graph) -> int:
    return int(node.attributes.get("num_groups", graph.types[node.inputs[0]].shape[1]))


def rows_of_groups(x: QTensor, groups: int) -> Rows:
    """Rows of `groups` groups of channels (axis 1) and all positions behind them."""
    axes = tuple(range(2, len(x.shape)))
    positions, size = prod(x.shape[2:]), x.shape[1] // groups
    if size == 1:
        return rows_over(x, axes)
    shape = reduced_shape(x.shape, axes)
    members = np.kron(np.eye(groups), np.ones((size, size)))

    def add(builder: LayerBuilder, source: QTensor, out: QTensor, offset: float) -> None:
        means = source
        if positions > 1:
            largest = max(abs(bound - source.zero_point) for bound in source.bounds)
            step = largest * source.scale / INT16_LIMIT * (1 + 2**-20)
            means = builder.inner(shape, step, 0, 16)
            add_sum(
                builder, source, means, axes, factor=Fraction(1, positions), suffix="mean"
            )
        add_channel_sets(
            builder, means, out, members, axis=1, factor=Fraction(1, size), offset=offset,
            suffix="group",
        )

    return Rows(count=positions * size, shape=shape, add_mean=add)


def _build(node: Node, builder: LayerBuilder) -> None:
    graph = builder.graph
    x, out = builder.tensor(node.inputs[0]), builder.output()
    scale, offset = (graph.constants[name].astype(np.float64) for name in node.inputs[1:3])
    size = x.shape[1] // _groups(node, graph)
    if scale.size != x.shape[1]:
        scale, offset = np.repeat(scale, size), np.repeat(offset, size)
    add_normalization(
        builder, x, out, rows_of_groups(x, _groups(node, graph)),
        epsilon=float(node.attributes.get("epsilon", 1e-5)), centred=True, scale=scale,
        offset=offset, axes=(1,), clip=builder.clip(out),
    )


def image(node: Node, graph: Graph) -> str | None:
    """the operand must have a batch axis, channels, and at least one axis of positions"""
    shape = graph.types[node.inputs[0]].shape
    return f"shape {shape}" if len(shape) < 3 else None


def constant_parameters(node: Node, graph: Graph) -> str | None:
    """scale and bias must be constant, finite, and one for each channel or each group"""
    channels, groups = graph.types[node.inputs[0]].shape[1], _groups(node, graph)
    for name in node.inputs[1:3]:
        values = graph.constants.get(name)
        if values is None:
            return f"{name!r} is computed"
        if not bool(np.isfinite(values).all()):
            return f"{name!r} is not finite"
        if values.size not in (channels, groups):
            return f"{name!r} of {values.size} values for {channels} channels in {groups} groups"
    return None


def row_length(node: Node, graph: Graph) -> str | None:
    """a channel must have at most 65,000 positions, and a group at most 65,000 channels"""
    shape = graph.types[node.inputs[0]].shape
    positions, channels = prod(shape[2:]), shape[1] // _groups(node, graph)
    if positions > _LONGEST:
        return f"{positions} positions"
    return f"{channels} channels" if channels > _WIDEST else None


OPERATORS = (
    Operator(
        names=("InstanceNormalization", "GroupNormalization"), build=_build, clips=True,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=image, remedy="reshape the operand"),
            Rule(check=constant_parameters, remedy="export the model in inference mode"),
            EPSILON,
            Rule(check=row_length, remedy="normalize smaller images, or in more groups"),
        ),
    ),
)
