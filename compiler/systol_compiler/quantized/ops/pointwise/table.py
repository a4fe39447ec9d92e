"""Functions of one operand, element by element: looked up in a table (ONNX activations).

An int8 operand has 256 codes, so its table holds correctly rounded results. Between the 257 knots
of a 16-bit operand the machine interpolates (docs/numerics.md, 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Node
from systol_compiler.nests import vector
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.numbers.arithmetic import round_shift, saturate
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.pointwise import by_code
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator
from systol_compiler.quantized.ops.pointwise.expression import (
    EXPANDED,
    UNARY,
    Expression,
    expression_of,
)
from systol_compiler.quantized.ops.rescale import narrowed
from systol_hw.errors import InputError

_KNOT_BITS = range(7, 4, -1)
"""Fraction bits of 16-bit knots of an int8 result: as many as the function's values leave room
for, and two to spare where it saturates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Layer):
    """A function of one operand.

    Attributes
    ----------
    expression
        What the table holds, in real numbers.
    entries
        int8 [256] by code + 128; or knots, int16 [257].
    shift
        Of the interpolated value with 8 fraction bits (docs/numerics.md, 5).
    zero_point
        Added after rounding: 0 where the entries are results.
    lo, hi
        Clip.
    """

    kind: ClassVar[str] = "table"

    expression: Expression
    entries: Array
    shift: int
    zero_point: int
    lo: int
    hi: int

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        if source.shape != output.shape:
            raise InputError(
                f"layer {self.name!r}: a table keeps the shape, but {source.shape} becomes "
                f"{output.shape}"
            )
        narrow = self.entries.dtype == np.int8
        expected = (256,) if narrow else (257,)
        if self.entries.shape != expected or (narrow and (source.width, output.width) != (8, 8)):
            raise InputError(
                f"layer {self.name!r}: a table from {source.width} to {output.width} bits cannot "
                f"have {self.entries.shape} entries of {self.entries.dtype}"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [by_code(lambda codes: self._looked_up(codes, tensors), values[0])]

    def _looked_up(self, codes: Array, tensors: Tensors) -> Array:
        codes, output = codes.astype(np.int64), tensors[self.outputs[0]]
        wide = tensors[self.inputs[0]].width == 16
        u = np.clip(codes + 32768, 0, 65535) if wide else 256 * (codes + 128)
        place, rest = u >> 8, u & 255
        entries = self.entries.astype(np.int64)
        result = 256 * entries[place]
        if self.entries.dtype == np.int16:
            result = result + (entries[place + 1] - entries[place]) * rest
        rounded = round_shift(result, self.shift) + self.zero_point
        return saturate(rounded, self.lo, self.hi, output.width)

    def lower(self, builder: NestBuilder) -> None:
        data = self.entries.astype(self.entries.dtype.newbyteorder("<")).view(np.uint8)
        builder.elementwise(
            vector.Table(
                table=builder.constant(f"{self.name}.table", data),
                wide=self.entries.dtype == np.int16, shift=self.shift,
            ),
            builder.place(self.outputs[0]), builder.view(self.inputs[0]),
            zero_point=self.zero_point, lo=self.lo, hi=self.hi,
        )

    def export(self, exporter: QdqExporter) -> None:
        value = self.expression.export(exporter, exporter.real(self.inputs[0]))
        exporter.result(self.outputs[0], value, self.lo, self.hi)


def add_table(
    builder: LayerBuilder, expression: Expression, source: QTensor, output: QTensor,
    clip: tuple[int, int] | None = None, suffix: str = "",
) -> None:
    """Add a layer that looks `expression` up; of a stepped function a 16-bit operand is narrowed
    to int8 before."""
    if source.width == 16 and not expression.continuous:
        source = narrowed(builder, source)
    lo, hi = clip or output.bounds
    entries, shift, zero_point = tabulated(expression, source, output, lo, hi)
    builder.add(
        Table(
            name=builder.layer_name(suffix), inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, expression=expression, entries=entries,
            shift=shift, zero_point=zero_point, lo=lo, hi=hi,
        )
    )


def tabulated(
    expression: Expression, source: QTensor, output: QTensor, lo: int, hi: int
) -> tuple[Array, int, int]:
    """Entries, shift and zero point of a table from codes of `source` to codes of `output`.

    Codes outside of the function's domain have the value of the nearest code inside.
    """
    if source.width == 8:
        codes = np.arange(-128, 128)
    else:
        codes = np.arange(257) * 256 - 32768
    # As DequantizeLinear gives them: a step such as that of Floor must fall on the same code.
    real = ((codes - source.zero_point) * source.scale).astype(np.float32)
    steps = _extended(expression.evaluate(real)) / output.scale
    if source.width == 8:
        results = np.clip(np.rint(steps) + output.zero_point, lo, hi)
        if output.width == 8:
            return results.astype(np.int8), 8, 0
        return np.append(results, results[-1]).astype(np.int16), 8, 0
    if output.width == 16:
        return np.clip(np.rint(steps), -32767, 32767).astype(np.int16), 8, 0
    reach = float(np.abs(steps).max())
    bits = next((bits for bits in _KNOT_BITS if reach * 2**bits <= 32767), _KNOT_BITS[-1])
    knots = np.clip(np.rint(steps * 2**bits), -32767, 32767)
    return knots.astype(np.int16), 8 + bits, output.zero_point


def _extended(values: Array) -> Array:
    """`values` with each NaN replaced by the nearest number; zeros if there is none."""
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return np.zeros_like(values)
    places = np.arange(values.size)
    right = np.clip(np.searchsorted(known, places), 0, known.size - 1)
    left = np.clip(right - 1, 0, known.size - 1)
    nearer = np.abs(known[left] - places) < np.abs(known[right] - places)
    # A table of 16 bits has values far outside of any tensor: finite, so that lines stay lines.
    result: Array = np.clip(
        values[np.where(nearer, known[left], known[right])], -np.finfo(np.float32).max,
        np.finfo(np.float32).max,
    )
    return result


def _build(node: Node, builder: LayerBuilder) -> None:
    expression = expression_of(node, builder.graph)
    assert expression is not None, node
    output = builder.output()
    add_table(
        builder, expression, builder.tensor(node.inputs[0]), output, builder.clip(output)
    )


OPERATORS = (
    Operator(
        names=tuple(op for op in (*UNARY, *EXPANDED) if op not in ("Abs", "Neg")),
        build=_build, rules=(FLOAT32, COMPUTED_DATA), clips=True,
    ),
)
