"""Rules of operands that the ONNX project's own checks leave unsaid.

What breaks one of them would only fail later, somewhere inside a pass or ONNX Runtime.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from math import prod
from typing import Any, Final

import numpy as np
from onnx import defs

from systol_compiler.graph.inference import FLOATS
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError

Rule = Callable[[Trace, Call], None]


def check_given(trace: Trace, call: Call, schema: Any) -> None:
    """Check that the operands of a call in its own operator set are there, and of types it takes.

    Floats of any width stand for each other, since a graph holds them all as float32.

    Raises
    ------
    InputError
        One is left out, or of another type.
    """
    kinds, formals = defs.OpSchema.FormalParameterOption, list(schema.inputs)
    for position, formal in enumerate(formals):
        missing = formal.option == kinds.Single and not call.input(position)
        if missing or (formal.option == kinds.Variadic and "" in call.inputs[position:]):
            _fail(call, f"input {formal.name!r} must be given, but is left out")
    for position, name in enumerate(call.inputs):
        formal = formals[min(position, len(formals) - 1)]
        if name and not _admits(formal.types, trace.types[name].dtype):
            _fail(call, f"input {formal.name!r} may not be of type {trace.types[name].dtype}")


def _admits(types: Set[str], dtype: str) -> bool:
    """Whether a formal parameter takes an element type, by numpy's name."""
    if dtype in FLOATS:
        return not types.isdisjoint(_FLOAT_TENSORS)
    return f"tensor({dtype.replace('_', '')})" in types or f"tensor({dtype})" in types


_FLOAT_TENSORS: Final = frozenset(
    {"tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"}
)


def check_operands(trace: Trace, call: Call) -> None:
    """Check a call of operator set 21 before it is emitted.

    Raises
    ------
    InputError
        An operand's shape or an attribute does not fit the others.
    """
    rule = _RULES.get(call.op)
    if rule is not None:
        rule(trace, call)


def _fail(call: Call, what: str) -> None:
    raise InputError(f"{call.place}: {what}; export the model again")


def _window(trace: Trace, call: Call) -> None:
    """Numbers for each axis of the image, in the ranges where they mean something."""
    shape = trace.shape(call.inputs[0])
    axes = len(shape) - 2
    if axes < 1:
        _fail(call, f"data must have at least one axis behind the channels, but are {list(shape)}")
    given = call.attributes
    if call.op in ("Conv", "ConvTranspose"):
        weight = trace.shape(call.inputs[1])
        if len(weight) != len(shape):
            _fail(call, f"the weight must have {len(shape)} axes as the data, not {len(weight)}")
        group = given.get("group", 1)
        channels = weight[1] * group if call.op == "Conv" else weight[0]
        outputs = weight[0] if call.op == "Conv" else weight[1] * group
        if group < 1 or channels != shape[1] or outputs % group or shape[1] % group:
            _fail(
                call,
                f"the weight must read as many channels as the data have, but is {list(weight)} "
                f"in {group} groups for data {list(shape)}",
            )
        if call.input(2) and trace.shape(call.inputs[2]) != (outputs,):
            _fail(call, f"the bias must be [{outputs}], not {list(trace.shape(call.inputs[2]))}")
        if tuple(given.get("kernel_shape", weight[2:])) != weight[2:]:
            _fail(call, f"kernel_shape must be that of the weight, {list(weight[2:])}")
    elif len(given.get("kernel_shape", [])) != axes:
        _fail(call, f"kernel_shape must have {axes} numbers, found {given.get('kernel_shape')}")
    for key, count, least in (
        ("kernel_shape", axes, 1),
        ("strides", axes, 1),
        ("dilations", axes, 1),
        ("pads", 2 * axes, 0),
        ("output_padding", axes, 0),
    ):
        values = given.get(key)
        if values is not None and not _in_range(values, count, least):
            _fail(call, f"{key} must be {count} numbers of at least {least}, found {values}")


def _in_range(values: Sequence[int], count: int, least: int) -> bool:
    return len(values) == count and all(least <= value < 1 << 31 for value in values)


def _gemm(trace: Trace, call: Call) -> None:
    a, b = (trace.shape(name) for name in call.inputs[:2])
    if len(a) != 2 or len(b) != 2:
        _fail(call, f"operands must be matrices, but are {list(a)} and {list(b)}")
    rows = a[1] if call.attributes.get("transA", 0) else a[0]
    columns = b[0] if call.attributes.get("transB", 0) else b[1]
    if call.input(2) and not _broadcasts(trace.shape(call.inputs[2]), (rows, columns)):
        bias = list(trace.shape(call.inputs[2]))
        _fail(call, f"the bias must broadcast to [{rows}, {columns}], but is {bias}")


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    if len(shape) > len(target):
        return False
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return all(size in (1, whole) for size, whole in pairs)


def _per_channel(trace: Trace, call: Call) -> None:
    """Normalizations with one parameter for each channel."""
    shape = trace.shape(call.inputs[0])
    if len(shape) < 2:
        _fail(call, f"data must have channels on their second axis, but are {list(shape)}")
    for name in call.inputs[1:]:
        if name and trace.shape(name) != shape[1:2]:
            _fail(call, f"{name!r} must be [{shape[1]}], not {list(trace.shape(name))}")
    groups = call.attributes.get("num_groups", 1)
    if not isinstance(groups, int) or groups < 1 or shape[1] % groups:
        _fail(call, f"num_groups must divide the {shape[1]} channels, but is {groups!r}")


def _last_axes(trace: Trace, call: Call) -> None:
    """Normalizations over the last axes."""
    shape = trace.shape(call.inputs[0])
    wanted = shape[call.attributes["axis"] :]
    for name in call.inputs[1:]:
        if name and not _broadcasts(trace.shape(name), wanted):
            given = list(trace.shape(name))
            _fail(call, f"{name!r} must broadcast to {list(wanted)}, but is {given}")


def _gather_nd(trace: Trace, call: Call) -> None:
    """What ONNX's inference would follow out of bounds."""
    data, indices = (trace.shape(name) for name in call.inputs)
    batch = call.attributes.get("batch_dims", 0)
    if not 0 <= batch < min(len(data), len(indices)):
        _fail(call, f"batch_dims must lie within {list(data)} and {list(indices)}, but is {batch}")
    if not 1 <= indices[-1] <= len(data) - batch:
        _fail(call, f"indices must name 1 to {len(data) - batch} axes, not {indices[-1]}")


def _prelu(trace: Trace, call: Call) -> None:
    shape, slope = (trace.shape(name) for name in call.inputs)
    if not _broadcasts(slope, shape):
        _fail(call, f"the slope must broadcast to {list(shape)}, but is {list(slope)}")


def _transpose(trace: Trace, call: Call) -> None:
    rank, perm = len(trace.shape(call.inputs[0])), call.attributes.get("perm")
    if perm is not None and sorted(perm) != list(range(rank)):
        _fail(call, f"perm must name each of {rank} axes once, but is {perm}")


def _clip(trace: Trace, call: Call) -> None:
    for name in call.inputs[1:]:
        if name and prod(trace.shape(name)) != 1:
            _fail(call, f"{name!r} must be one number, but is {list(trace.shape(name))}")


def _lrn(trace: Trace, call: Call) -> None:
    size, shape = call.attributes.get("size", 0), trace.shape(call.inputs[0])
    if size < 1 or len(shape) < 3:
        _fail(call, f"size must be at least 1, but is {size}, for data {list(shape)}")


def _resize(trace: Trace, call: Call) -> None:
    scales = trace.value(call.input(2)) if call.input(2) else None
    if scales is not None and not (np.isfinite(scales).all() and (scales > 0).all()):
        _fail(call, f"scales must be positive, found {scales.tolist()}")


_RULES: Final[Mapping[str, Rule]] = {
    "AveragePool": _window,
    "BatchNormalization": _per_channel,
    "Clip": _clip,
    "Conv": _window,
    "ConvTranspose": _window,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "GroupNormalization": _per_channel,
    "InstanceNormalization": _per_channel,
    "LRN": _lrn,
    "LayerNormalization": _last_axes,
    "MaxPool": _window,
    "PRelu": _prelu,
    "RMSNormalization": _last_axes,
    "Resize": _resize,
    "Transpose": _transpose,
}
