"""Resize (ONNX Resize): nearest as copies; linear as weighted sums of two neighbours by axis.

Coordinates are computed in binary32, as ONNX Runtime does, so that ties fall on the same side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.builder import NestBuilder
from systol_compiler.nests.vector import Binary, Copy, Function
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import MULTIPLIER_MAX, Array
from systol_compiler.numbers.pointwise import rounded, whole
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule, Wish
from systol_compiler.quantized.ops.gather import repeated, repetitions, spans, take
from systol_compiler.quantized.ops.move import Move
from systol_compiler.quantized.ops.rescale import add_rescale, matched
from systol_hw.errors import InputError

_FINER = 64
"""Steps of a 16-bit intermediate to one of an int8 operand: weights that are multiples of a 64th
are exact, and 255 steps have room."""

Float32 = np.float32


def channels_innermost(rank: int) -> Order:
    """Memory order with axis 1 behind the others."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest(Move):
    """Element `maps[k][i]` of the operand along axis k at index i of the result.

    Attributes
    ----------
    maps
        By axis; an empty tuple where the axis stays as it is.
    """

    kind: ClassVar[str] = "nearest"

    maps: tuple[tuple[int, ...], ...]

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        for axis, indices in enumerate(self.maps):
            if indices:
                values = values.take(indices, axis)
        return [values]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        for axis, indices in enumerate(self.maps):
            if indices:
                constant = exporter.constant(np.array(indices, np.int64))
                value = exporter.node("Gather", [value, constant], axis=axis)[0]
        return [value]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [channels_innermost(len(self.maps))]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [given[0]]

    def lower(self, builder: NestBuilder) -> None:
        view, out = builder.view(self.inputs[0]), builder.place(self.outputs[0])
        # What shrinks first, so that least is copied twice.
        axes = sorted(
            (axis for axis, indices in enumerate(self.maps) if indices),
            key=lambda axis: len(self.maps[axis]) / view.shape[axis],
        )
        order = builder.orders[self.inputs[0]]
        odd = [axis for axis in axes if len(spans(self._once(axis))) > 1]
        for axis in odd[:-1]:
            shape = tuple(
                len(self.maps[axis]) if k == axis else size for k, size in enumerate(view.shape)
            )
            target = builder.scratch(shape, order, 8 * view.planes)
            take(builder, target, view, axis, self.maps[axis])
            view = target
        # The rest is regular but for one axis: one copy of views with an axis more for repetitions.
        last = odd[-1] if odd else None
        for axis in sorted(axes, reverse=True):
            if axis in odd:
                continue
            (span,) = spans(self._once(axis))
            view = view.slice(axis, span.start, span.count, span.step)
            out, view = repeated(out, view, axis, repetitions(self.maps[axis]))
            if last is not None and axis < last:
                last += 1
        if last is None:
            builder.elementwise(Copy(), out, view)
        else:
            take(builder, out, view, last, self.maps[odd[-1]])

    def _once(self, axis: int) -> tuple[int, ...]:
        """The map of an axis without the repetitions that all of its elements have."""
        indices = self.maps[axis]
        return indices[:: repetitions(indices)]

    def batched(self, tensors: Tensors) -> bool:
        return not self.maps[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Interpolate(Layer):
    """`weights[i]` between the neighbours `lower[i]` and `upper[i]` along `axis`, rounded once.

    Attributes
    ----------
    lower, upper
        int64 indices by index of the result.
    weights
        float64, of the upper neighbour; the lower one has the rest of 1.
    total, shift
        The operand's step in steps of the result, times 2**shift: what both multipliers add up to.
    """

    kind: ClassVar[str] = "interpolate"

    axis: int
    lower_index: Array
    upper_index: Array
    weights: Array
    total: int
    shift: int

    @property
    def multipliers(self) -> tuple[Array, Array]:
        """Of the lower and of the upper neighbours' steps: int64."""
        upper = np.rint(self.weights * self.total).astype(np.int64)
        return self.total - upper, upper

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        shape = list(source.shape)
        shape[self.axis] = self.weights.size
        if tuple(shape) != output.shape:
            raise InputError(
                f"layer {self.name!r}: {self.weights.size} results along axis {self.axis} of "
                f"{source.shape} cannot have shape {output.shape}"
            )
        if (self.total, self.shift) != total_of(source, output):
            raise InputError(
                f"layer {self.name!r}: a step of {source.scale:g} in steps of {output.scale:g} is "
                f"{total_of(source, output)}, not {(self.total, self.shift)}"
            )
        for indices in (self.lower_index, self.upper_index):
            if indices.min() < 0 or indices.max() >= source.shape[self.axis]:
                raise InputError(f"layer {self.name!r}: a neighbour lies outside of the operand")

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        steps = whole(values[0], source.zero_point)
        shape = [-1 if k == self.axis else 1 for k in range(steps.ndim)]
        below, above = (part.reshape(shape) for part in self.multipliers)
        total = steps.take(self.lower_index, self.axis) * below
        total += steps.take(self.upper_index, self.axis) * above
        low, high = output.bounds
        return [rounded(total, self.shift, output.zero_point, low, high, output.width)]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [channels_innermost(len(tensors[self.inputs[0]].shape))]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [given[0]]

    def lower(self, builder: NestBuilder) -> None:
        source, output = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        view, out = builder.view(source.name), builder.place(output.name)
        below, above = self.multipliers
        phases: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for place in range(self.weights.size):
            key = int(below[place]), int(above[place])
            phases.setdefault(key, []).append(
                (place, int(self.lower_index[place]), int(self.upper_index[place]))
            )
        for (first, second), places in phases.items():
            operation = Binary(
                function=Function.ADD, a_zero_point=source.zero_point,
                b_zero_point=source.zero_point, a_multiplier=first, b_multiplier=second,
                shift=self.shift,
            )
            for run in regular_runs(places):
                target, a, b = (
                    _along(part, self.axis, [turn[k] for turn in run])
                    for k, part in enumerate((out, view, view))
                )
                builder.elementwise(operation, target, a, b, zero_point=output.zero_point)

    def export(self, exporter: QdqExporter) -> None:
        value = exporter.real(self.inputs[0])
        shape = [-1 if k == self.axis else 1 for k in range(
            len(exporter.tensor(self.inputs[0]).shape))]
        parts = []
        for indices, weights in (
            (self.lower_index, 1 - self.weights), (self.upper_index, self.weights)
        ):
            taken = exporter.node("Gather", [value, exporter.constant(indices)], axis=self.axis)
            factor = exporter.constant(weights.reshape(shape).astype(np.float32))
            parts += exporter.node("Mul", [*taken, factor])
        exporter.result(self.outputs[0], exporter.node("Add", parts)[0])

    def batched(self, tensors: Tensors) -> bool:
        return self.axis != 0 and super().batched(tensors)


def _along(view: View, axis: int, indices: Sequence[int]) -> View:
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return view.slice(axis, indices[0], len(indices), step)


def regular_runs(turns: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """`turns` cut into runs whose members all grow by equal steps."""
    runs: list[list[tuple[int, ...]]] = []
    for turn in turns:
        run = runs[-1] if runs else []
        if len(run) == 1 or (run and all(
            new - last == last - before
            for new, last, before in zip(turn, run[-1], run[-2], strict=True)
        )):
            run.append(turn)
        else:
            runs.append([turn])
    return runs


def total_of(source: QTensor, output: QTensor) -> tuple[int, int]:
    """The operand's step in steps of the result as a multiplier and a shift: the greatest that
    fits 18 bits."""
    ratio = Fraction(source.scale) / Fraction(output.scale)
    shift = 40
    while shift and round(ratio * 2**shift) > MULTIPLIER_MAX:
        shift -= 1
    return min(round(ratio * 2**shift), MULTIPLIER_MAX), shift


# Coordinates

def _half_pixel(x: Array, scale: Float32, old: int, new: int) -> Array:
    return (x + Float32(0.5)) / scale - Float32(0.5)


def _half_pixel_symmetric(x: Array, scale: Float32, old: int, new: int) -> Array:
    adjustment = Float32(new) / (scale * Float32(old))
    center = Float32(old) / Float32(2)
    offset = center * (Float32(1) - adjustment)
    return offset + (x + Float32(0.5)) / scale - Float32(0.5)


def _pytorch_half_pixel(x: Array, scale: Float32, old: int, new: int) -> Array:
    return _half_pixel(x, scale, old, new) if new > 1 else np.zeros_like(x)


def _align_corners(x: Array, scale: Float32, old: int, new: int) -> Array:
    return x * Float32(old - 1) / Float32(new - 1) if new > 1 else np.zeros_like(x)


def _asymmetric(x: Array, scale: Float32, old: int, new: int) -> Array:
    return x / scale


COORDINATES: Mapping[str, Callable[[Array, Float32, int, int], Array]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
}
"""Where an index of the result lies in the operand, by coordinate_transformation_mode.

Ref: ONNX operator Resize, version 19.
"""

_ROUND: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - Float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + Float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _text(node: Node, key: str, default: str) -> str:
    value: Any = node.attributes.get(key, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def coordinates(node: Node, graph: Graph) -> dict[int, Array]:
    """float32 places in the operand of each index of the result, by axis that is resized."""
    old, new = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    axes = [int(axis) % len(old) for axis in node.attributes.get("axes", range(len(old)))]
    factors: dict[int, Float32] = {}
    scales = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    for place, axis in enumerate(axes):
        if scales is not None and scales.size:
            factors[axis] = Float32(scales.reshape(-1)[place])
        else:
            factors[axis] = Float32(new[axis]) / Float32(old[axis])
    transform = COORDINATES[_text(node, "coordinate_transformation_mode", "half_pixel")]
    return {
        axis: transform(np.arange(new[axis], dtype=np.float32), factor, old[axis], new[axis])
        for axis, factor in factors.items()
        if factor != 1 or old[axis] != new[axis]
    }


def _build(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    places = coordinates(node, graph)
    source = builder.tensor(node.inputs[0])
    if _text(node, "mode", "nearest") == "nearest":
        rounded = _ROUND[_text(node, "nearest_mode", "round_prefer_floor")]
        maps: list[tuple[int, ...]] = []
        for axis, size in enumerate(source.shape):
            indices: tuple[int, ...] = ()
            if axis in places:
                found = np.clip(rounded(places[axis]), 0, size - 1).astype(int)
                indices = tuple(found.tolist())
            maps.append(() if indices == tuple(range(size)) else indices)
        source = matched(builder, source, output)
        if not any(maps):
            add_rescale(builder, source, output)
            return
        builder.add(
            Nearest(
                name=builder.layer_name(), inputs=(source.name,), outputs=(output.name,),
                source_nodes=builder.current.sources, maps=tuple(maps),
            )
        )
        return
    # What shrinks first: less is left for the other axes.
    axes = sorted(places, key=lambda axis: output.shape[axis] / source.shape[axis])
    if not axes:
        add_rescale(builder, source, output)
    for count, axis in enumerate(axes, 1):
        shape = list(source.shape)
        shape[axis] = output.shape[axis]
        result = output
        if count < len(axes):
            fine = source.scale / (_FINER if source.width == 8 else 1)
            result = builder.inner(tuple(shape), fine, 0, 16)
        _add_interpolation(builder, source, result, axis, places[axis])
        source = result


def _add_interpolation(
    builder: LayerBuilder, source: QTensor, output: QTensor, axis: int, places: Array
) -> None:
    size = source.shape[axis]
    inside = np.clip(places, 0, size - 1)
    lower = np.floor(inside).astype(np.int64)
    total, shift = total_of(source, output)
    builder.add(
        Interpolate(
            name=builder.layer_name(), inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, axis=axis, lower_index=lower,
            upper_index=np.minimum(lower + 1, size - 1),
            weights=(inside - lower).astype(np.float64), total=total, shift=shift,
        )
    )


def known_resize(node: Node, graph: Graph) -> str | None:
    """Resize must be nearest or linear by constant factors, without antialiasing where it shrinks,
    without cropping, and to the stretched size (nearest with half_pixel_symmetric: a whole one)"""
    for name in node.inputs[2:]:
        if name and name not in graph.constants:
            return f"{name!r} is computed"
    mode = _text(node, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        return f"mode {mode!r}"
    transform = _text(node, "coordinate_transformation_mode", "half_pixel")
    if transform not in COORDINATES:
        return f"coordinate_transformation_mode {transform!r}"
    if mode == "nearest":
        rounding = _text(node, "nearest_mode", "round_prefer_floor")
        if rounding not in _ROUND:
            return f"nearest_mode {rounding!r}"
        if transform == "half_pixel_symmetric" and not _whole_sizes(node, graph):
            # Ties then depend on the last bit of a sum whose order nobody states.
            return f"{transform} with sizes that the factors do not give"
    policy = _text(node, "keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return f"keep_aspect_ratio_policy {policy!r}"
    old, new = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    if node.attributes.get("antialias", 0) and any(
        after < before for before, after in zip(old, new, strict=True)
    ):
        return f"antialias from {old} to {new}"
    if mode == "linear" and prod(old[:2]) != prod(new[:2]):
        return f"images or channels change from {old[:2]} to {new[:2]}"
    return None


def _whole_sizes(node: Node, graph: Graph) -> bool:
    old, new = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    scales = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is None or not scales.size:
        return True
    axes = [int(axis) % len(old) for axis in node.attributes.get("axes", range(len(old)))]
    return all(
        Float32(factor) * Float32(old[axis]) == new[axis]
        for axis, factor in zip(axes, scales.reshape(-1), strict=True)
    )


def _wish(node: Node, graph: Graph) -> Wish:
    return Wish(same=((node.inputs[0], node.outputs[0]),))


OPERATORS = (
    Operator(
        names=("Resize",), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=known_resize, remedy="resize by nearest or linear interpolation"),
        ),
        wish=_wish,
    ),
)
