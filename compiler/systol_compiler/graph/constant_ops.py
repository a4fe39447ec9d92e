"""What exporters compute shapes with, evaluated directly: views where that is possible.

The ONNX project's reference evaluator does the same and everything else, at a thousand times the
cost for a handful of numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from systol_compiler.graph.float_graph import Array

Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]

VIEWS: Final = frozenset(
    "Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice ConstantOfShape Expand".split()
)
"""Operators whose results here are views: they take no memory of their own."""


def evaluate(op: str, inputs: Inputs, attributes: Attributes) -> Array | None:
    """The one result of `op` (operator set 21) on constants, or None if it is not done here.

    Raises
    ------
    Exception
        The operands do not fit; the class is numpy's own.
    """
    rule = _RULES.get(op)
    if rule is None:
        return None
    with np.errstate(all="ignore"):
        result = rule(inputs, attributes)
    return None if result is None else np.asarray(result)


def _value(inputs: Inputs, position: int) -> Array | None:
    return inputs[position] if position < len(inputs) else None


def _integers(value: Array | None) -> list[int] | None:
    return None if value is None else [int(item) for item in value.reshape(-1)]


def _cast(inputs: Inputs, attributes: Attributes) -> Array | None:
    element = attributes["to"]
    (value,) = inputs
    if element in _CASTS and value is not None and value.dtype.kind in "fiub":
        return value.astype(helper.tensor_dtype_to_np_dtype(element), copy=False)
    return None


_CASTS: Final = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BOOL,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)


def reshaped(shape: tuple[int, ...], wanted: Sequence[int], allow_zero: bool) -> list[int]:
    """The shape that ONNX Reshape (version 14) gives to a tensor of `shape`; may hold one -1."""
    return [
        shape[axis] if size == 0 and not allow_zero else int(size)
        for axis, size in enumerate(wanted)
    ]


def _reshape(inputs: Inputs, attributes: Attributes) -> Array:
    value, shape = inputs
    assert value is not None and shape is not None
    return value.reshape(
        reshaped(value.shape, shape.tolist(), bool(attributes.get("allowzero", 0)))
    )


def _flatten(inputs: Inputs, attributes: Attributes) -> Array:
    (value,) = inputs
    assert value is not None
    axis = attributes.get("axis", 1)
    rows = prod(value.shape[:axis])
    return value.reshape(rows, value.size // max(rows, 1))


def _squeeze(inputs: Inputs, attributes: Attributes) -> Array:
    value, axes = inputs[0], _integers(_value(inputs, 1))
    assert value is not None
    return np.squeeze(value, None if axes is None else tuple(axes))


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Array:
    value, axes = inputs[0], _integers(_value(inputs, 1))
    assert value is not None and axes is not None
    return np.expand_dims(value, tuple(axes))


def _transpose(inputs: Inputs, attributes: Attributes) -> Array:
    (value,) = inputs
    assert value is not None
    return np.transpose(value, attributes.get("perm"))


def _concat(inputs: Inputs, attributes: Attributes) -> Array:
    return np.concatenate([value for value in inputs if value is not None], attributes["axis"])


def _gather(inputs: Inputs, attributes: Attributes) -> Array:
    value, indices = inputs
    assert value is not None and indices is not None
    return np.take(value, indices, axis=attributes.get("axis", 0))


def _slice(inputs: Inputs, attributes: Attributes) -> Array:
    value = inputs[0]
    assert value is not None
    starts, ends = _integers(inputs[1]), _integers(inputs[2])
    assert starts is not None and ends is not None
    axes = _integers(_value(inputs, 3)) or list(range(len(starts)))
    steps = _integers(_value(inputs, 4)) or [1] * len(starts)
    index = [slice(None)] * value.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found = picked(value.shape[axis], start, end, step)
        stop = found.start + len(found) * step
        index[axis] = slice(found.start, stop if stop >= 0 else None, step)
        if not len(found):
            index[axis] = slice(0)
    return value[tuple(index)]


def picked(size: int, start: int, end: int, step: int) -> range:
    """What ONNX Slice (version 13) picks from an axis of `size`.

    Unlike Python's, a start before the front counts as the front when the step is negative.

    Raises
    ------
    ValueError
        The step is 0.
    """
    start, end = (value + size if value < 0 else value for value in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _constant_of_shape(inputs: Inputs, attributes: Attributes) -> Array:
    shape = _integers(inputs[0])
    assert shape is not None
    value = attributes.get("value", np.zeros(1, dtype=np.float32))
    return np.broadcast_to(value.reshape(()), tuple(shape))


def _expand(inputs: Inputs, attributes: Attributes) -> Array:
    value, shape = inputs[0], _integers(inputs[1])
    assert value is not None and shape is not None
    return np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(shape)))


def _where(inputs: Inputs, attributes: Attributes) -> Array:
    mask, yes, no = inputs
    assert mask is not None and yes is not None and no is not None
    return np.where(mask, yes, no)


def _division(a: Array, b: Array) -> Array | None:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    # Integers round toward zero; a zero divisor and signs are the evaluator's business.
    if b.size and (b > 0).all() and (a >= 0).all():
        return np.floor_divide(a, b)
    return None


def _binary(
    function: Callable[[Array, Array], Array | None],
) -> Callable[[Inputs, Attributes], Array | None]:
    def rule(inputs: Inputs, attributes: Attributes) -> Array | None:
        a, b = inputs
        assert a is not None and b is not None
        return function(a, b) if a.dtype == b.dtype else None

    return rule


def _unary(function: Callable[[Array], Array]) -> Callable[[Inputs, Attributes], Array | None]:
    def rule(inputs: Inputs, attributes: Attributes) -> Array | None:
        (value,) = inputs
        assert value is not None
        return function(value) if value.dtype.kind == "f" else None

    return rule


_RULES: Final[Mapping[str, Callable[[Inputs, Attributes], Array | None]]] = {
    "Identity": lambda inputs, attributes: inputs[0],
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Where": _where,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_division),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "Less": _binary(np.less),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Sqrt": _unary(np.sqrt),
    "Neg": _unary(np.negative),
}
