"""Resize (ONNX Resize): nearest as copies; linear as weighted sums of two neighbours by axis, cubic
as sums of two such sums.

Coordinates are computed in binary32, as ONNX Runtime does, so that ties fall on the same side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Binary, Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import MULTIPLIER_MAX, Array
from systol_compiler.numbers.pointwise import rounded, whole
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    NO_WISH,
    Operator,
    Rule,
    Wish,
)
from systol_compiler.quantized.ops.moves.gather import repeated, repetitions, spans, take
from systol_compiler.quantized.ops.moves.move import Move
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise
from systol_compiler.quantized.ops.rescale import add_rescale, matched
from systol_hw.errors import InputError
from systol_hw.isa.choices import Function

_FINER = 64
"""Steps of a 16-bit intermediate to one of an int8 operand: weights that are multiples of a 64th
are exact, and twice 255 steps have room."""
_FURTHEST = 2.0
"""How much further than their operands cubic sums may reach: what has room in 16 bits."""

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
    lower_index, upper_index
        int64 indices by index of the result.
    weights
        float64, of the upper neighbour, in -2..2.
    rest
        float64, of the lower neighbour, in -2..2; by default the rest of 1.
    total, shift
        The operand's step in steps of the result, times 2**shift: the multiplier of a weight of 1.
    """

    kind: ClassVar[str] = "interpolate"

    axis: int
    lower_index: Array
    upper_index: Array
    weights: Array
    rest: Array | None = None
    total: int
    shift: int

    @property
    def greatest(self) -> float:
        """Magnitude of the greatest weight, at least 1."""
        both = (self.weights,) if self.rest is None else (self.weights, self.rest)
        return max(1.0, *(float(np.abs(weights).max()) for weights in both))

    @property
    def multipliers(self) -> tuple[Array, Array]:
        """Of the lower and of the upper neighbours' steps: int64."""
        upper = np.rint(self.weights * self.total).astype(np.int64)
        if self.rest is None:
            return self.total - upper, upper
        return np.rint(self.rest * self.total).astype(np.int64), upper

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        shape = list(source.shape)
        shape[self.axis] = self.weights.size
        if tuple(shape) != output.shape:
            raise InputError(
                f"layer {self.name!r}: {self.weights.size} results along axis {self.axis} of "
                f"{source.shape} cannot have shape {output.shape}"
            )
        if not self.greatest <= _FURTHEST or (
            self.rest is not None and self.rest.shape != self.weights.shape
        ):
            raise InputError(
                f"layer {self.name!r}: each result has two weights in -2..2, but the greatest of "
                f"{self.weights.size} is {self.greatest:g}"
            )
        expected = total_of(source, output, self.greatest)
        if (self.total, self.shift) != expected:
            raise InputError(
                f"layer {self.name!r}: a step of {source.scale:g} in steps of {output.scale:g} is "
                f"{expected}, not {(self.total, self.shift)}"
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
        rest = 1 - self.weights if self.rest is None else self.rest
        for indices, weights in ((self.lower_index, rest), (self.upper_index, self.weights)):
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


def total_of(source: QTensor, output: QTensor, weight: float = 1.0) -> tuple[int, int]:
    """The operand's step in steps of the result as a multiplier and a shift: the greatest that
    fits 18 bits, with the greatest `weight` too."""
    ratio = Fraction(source.scale) / Fraction(output.scale)
    most = int(MULTIPLIER_MAX / max(weight, 1.0))
    shift = 40
    while shift and round(ratio * 2**shift) > most:
        shift -= 1
    return min(round(ratio * 2**shift), most), shift


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
    add = _add_cubic if _text(node, "mode", "nearest") == "cubic" else _add_linear
    # What shrinks first: less is left for the other axes.
    axes = sorted(places, key=lambda axis: output.shape[axis] / source.shape[axis])
    if not axes:
        add_rescale(builder, source, output)
    for count, axis in enumerate(axes, 1):
        shape = list(source.shape)
        shape[axis] = output.shape[axis]
        result = output
        if count < len(axes):
            step = _finer(source, node, places[axis], source.shape[axis])
            result = builder.inner(tuple(shape), step, 0, 16)
        add(node, builder, source, result, axis, places[axis])
        source = result


def _finer(source: QTensor, node: Node, places: Array, size: int) -> float:
    """The step of a 16-bit sum of `source`'s elements along an axis of `size`. Cubic sums reach
    further than their operand: of 8 bits there is room for it, of 16 the step is coarser."""
    if source.width == 8:
        return source.scale / _FINER
    if _text(node, "mode", "nearest") == "linear":
        return source.scale
    return source.scale * _reach(cubic_taps(node, places, size)[1])


def _reach(weights: Array) -> float:
    """How much greater than their operands sums with `weights` [taps, places] can be."""
    return max(1.0, float(np.abs(weights).sum(axis=0).max()))


def _add_linear(
    node: Node, builder: LayerBuilder, source: QTensor, output: QTensor, axis: int, places: Array
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


def _add_cubic(
    node: Node, builder: LayerBuilder, source: QTensor, output: QTensor, axis: int, places: Array
) -> None:
    """The sums of the first two and of the last two neighbours, and their sum."""
    indices, weights = cubic_taps(node, places, source.shape[axis])
    step = _finer(source, node, places, source.shape[axis])
    halves: list[QTensor] = []
    for first in (0, 2):
        half = builder.inner(output.shape, step, 0, 16)
        total, shift = total_of(source, half, float(np.abs(weights[first : first + 2]).max()))
        builder.add(
            Interpolate(
                name=builder.layer_name(), inputs=(source.name,), outputs=(half.name,),
                source_nodes=builder.current.sources, axis=axis, lower_index=indices[first],
                upper_index=indices[first + 1], weights=weights[first + 1], rest=weights[first],
                total=total, shift=shift,
            )
        )
        halves.append(half)
    add_elementwise(builder, "Add", halves[0], halves[1], output, suffix="sum")


def cubic_taps(node: Node, places: Array, size: int) -> tuple[Array, Array]:
    """Indices (int64) and weights (float64) of the four neighbours of each place: [4, places].

    Ref: ONNX operator Resize, version 19; Keys, "Cubic convolution interpolation for digital image
    processing", 1981, equation 15, with `cubic_coeff_a` in the place of -1/2.
    """
    a = float(node.attributes.get("cubic_coeff_a", -0.75))
    floor = np.floor(places)
    rest = (places - floor).astype(np.float64)
    taps = floor.astype(np.int64) + np.arange(-1, 3)[:, None]
    near, far = (
        np.abs(np.stack([rest, 1 - rest])), np.abs(np.stack([rest + 1, 2 - rest]))
    )
    inner = ((a + 2) * near - (a + 3)) * near**2 + 1
    outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    weights = np.stack([outer[0], inner[0], inner[1], outer[1]])
    if node.attributes.get("exclude_outside", 0):
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
        weights = weights / weights.sum(axis=0)
    return np.clip(taps, 0, size - 1), weights


def moderate_weights(node: Node, graph: Graph) -> str | None:
    """the weights of an element's neighbours in cubic interpolation may add up to at most 2 without
    their signs"""
    if _text(node, "mode", "nearest") != "cubic":
        return None
    shape = graph.types[node.inputs[0]].shape
    for axis, places in coordinates(node, graph).items():
        with np.errstate(all="ignore"):
            reach = _reach(cubic_taps(node, places, shape[axis])[1])
        if not reach <= _FURTHEST:
            return f"{reach:g} along axis {axis}"
    return None


def known_resize(node: Node, graph: Graph) -> str | None:
    """Resize must be nearest, linear or cubic by constant factors, without antialiasing where it
    shrinks, without cropping, and to the stretched size (nearest with half_pixel_symmetric: a whole
    one)"""
    for name in node.inputs[2:]:
        if name and name not in graph.constants:
            return f"{name!r} is computed"
    mode = _text(node, "mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
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
    if mode != "nearest" and prod(old[:2]) != prod(new[:2]):
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
    if _text(node, "mode", "nearest") == "cubic":
        return NO_WISH  # between its operand's elements it reaches beyond them
    return Wish(same=((node.inputs[0], node.outputs[0]),))


OPERATORS = (
    Operator(
        names=("Resize",), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=known_resize, remedy="resize by nearest, linear or cubic interpolation"),
            Rule(check=moderate_weights, remedy="take the usual cubic_coeff_a, -0.75 or -0.5"),
        ),
        wish=_wish,
    ),
)
