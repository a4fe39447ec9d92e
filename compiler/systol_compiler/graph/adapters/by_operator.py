"""Operators of older (and some newer) operator sets, in the words of operator set 21.

An adapter takes one call and gives the calls that stand for it. Ref: the change logs in
https://onnx.ai/onnx/operators.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Final

import numpy as np

from systol_compiler.graph.adapters import moves as move_adapters
from systol_compiler.graph.adapters.operands import axis_of, int64_constant
from systol_compiler.graph.adapters.windows import conv, conv_transpose, pool
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError

Adapter = Callable[[Trace, Call, int], list[Call]]
"""Takes the call and the operator set that it was written in."""


def adapt(trace: Trace, call: Call, opset: int) -> list[Call]:
    """The calls of operator set 21 that mean the same; [] where `trace` refused it."""
    adapter = ADAPTERS.get(call.op)
    return [call] if adapter is None else adapter(trace, call, opset)


def _arg(trace: Trace, call: Call, opset: int) -> list[Call]:
    rank = len(trace.shape(call.inputs[0]))
    attributes = dict(call.attributes) | {
        "axis": axis_of(call, call.attributes.get("axis", 0), rank),
        "keepdims": int(call.attributes.get("keepdims", 1) == 1),
    }
    return [call.changed(attributes=attributes)]


def _attribute_to_input(key: str, position: int, before: int) -> Adapter:
    """The integers of attribute `key` became input `position` in operator set `before`."""

    def adapter(trace: Trace, call: Call, opset: int) -> list[Call]:
        if opset >= before or key not in call.attributes:
            return [call]
        attributes = dict(call.attributes)
        name = int64_constant(trace, call, key, attributes.pop(key))
        inputs = [*call.inputs[:position], *[""] * (position - len(call.inputs)), name]
        return [call.changed(inputs=tuple(inputs), attributes=attributes)]

    return adapter


def _batch_normalization(trace: Trace, call: Call, opset: int) -> list[Call]:
    attributes = dict(call.attributes)
    per_element = not attributes.pop("spatial", 1)
    attributes.pop("momentum", None)
    if attributes.pop("training_mode", 0):
        trace.refuse(call, "batch statistics are not computed; export the model in evaluation mode")
        return []
    if per_element:
        trace.refuse(call, "statistics must be per channel, found spatial=0; set spatial to 1")
        return []
    calls = [call.changed(attributes=attributes, outputs=call.outputs[:1])]
    # Old exporters list the statistics as outputs: at inference they are what they were.
    for position, output in enumerate(call.outputs[1:5]):
        if output:
            statistic = call.inputs[3 + position % 2]
            calls.append(
                call.changed(op="Identity", inputs=(statistic,), outputs=(output,), attributes={})
            )
    return calls


def _cast(trace: Trace, call: Call, opset: int) -> list[Call]:
    attributes = {"to": call.attributes["to"]}
    return [call.changed(attributes=attributes)]


def _clip(trace: Trace, call: Call, opset: int) -> list[Call]:
    if opset >= 11:
        return [call]
    kind = trace.types[call.inputs[0]].dtype
    bounds = [
        trace.constant(f"{call.name}.{key}", np.array(call.attributes[key], dtype=kind))
        if key in call.attributes
        else ""
        for key in ("min", "max")
    ]
    return [call.changed(inputs=(call.inputs[0], *bounds), attributes={})]


def _dropout(trace: Trace, call: Call, opset: int) -> list[Call]:
    training = trace.value(call.input(2)) if call.input(2) else np.array(False)
    if training is None or training.any():
        trace.refuse(call, "training_mode must be false; export the model in evaluation mode")
        return []
    calls = [call.changed(op="Identity", inputs=call.inputs[:1], outputs=call.outputs[:1],
                          attributes={})]  # fmt: skip
    if call.outputs[1:] and call.outputs[1]:
        shape = trace.shape(call.inputs[0])
        trace.define(call.outputs[1], np.broadcast_to(np.array(True), shape))
    return calls


def _coerced(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Softmax and its kin before version 13: over all axes from `axis` on, as one."""
    attributes = dict(call.attributes)
    shape = trace.shape(call.inputs[0])
    if opset >= 13:
        axis = axis_of(call, attributes.get("axis", -1), len(shape))
        return [call.changed(attributes={"axis": axis})]
    axis = axis_of(call, attributes.get("axis", 1), len(shape))
    attributes["axis"] = axis
    if prod(shape[axis + 1 :]) == 1:
        return [call.changed(attributes=attributes)]
    flat = trace.tensor_names.take(f"{call.name}.flat")
    result = trace.tensor_names.take(f"{call.name}.result")
    rows = int64_constant(trace, call, "rows", [prod(shape[:axis]), prod(shape[axis:])])
    back = int64_constant(trace, call, "shape", shape)
    return [
        call.changed(op="Reshape", inputs=(call.inputs[0], rows), outputs=(flat,), attributes={}),
        call.changed(inputs=(flat,), outputs=(result,), attributes={"axis": 1}),
        call.changed(op="Reshape", inputs=(result, back), attributes={}),
    ]


def _group_normalization(trace: Trace, call: Call, opset: int) -> list[Call]:
    attributes = dict(call.attributes)
    attributes.pop("stash_type", None)
    call = call.changed(attributes=attributes)
    if opset >= 21:
        return [call]
    # Until version 18, one scale and bias for each group.
    shape, groups = trace.shape(call.inputs[0]), attributes.get("num_groups")
    if len(shape) < 2 or not isinstance(groups, int) or groups < 1 or shape[1] % groups:
        raise InputError(
            f"{call.place}: num_groups must divide the channels of data {list(shape)}, but is "
            f"{groups!r}; export the model again"
        )
    inputs = [call.inputs[0]]
    for name in call.inputs[1:]:
        value = trace.value(name)
        if value is None:
            trace.refuse(call, "scale and bias must be constants; export for operator set 21")
            return []
        repeated = np.repeat(value.reshape(-1), shape[1] // groups)
        inputs.append(trace.constant(f"{name}.channels", repeated))
    return [call.changed(inputs=tuple(inputs))]


def _grid_sample(trace: Trace, call: Call, opset: int) -> list[Call]:
    mode = call.attributes.get("mode", "linear")
    modes = {"bilinear": "linear", "bicubic": "cubic"}
    return [call.changed(attributes={**call.attributes, "mode": modes.get(mode, mode)})]


def _reduce(before: int) -> Adapter:
    """Axes became an input in operator set `before`; no axes mean all, unless it says none."""
    as_input = _attribute_to_input("axes", 1, before)

    def adapter(trace: Trace, call: Call, opset: int) -> list[Call]:
        (call,) = as_input(trace, call, opset)
        attributes = {"keepdims": int(call.attributes.get("keepdims", 1) == 1)}
        axes = trace.value(call.input(1)) if call.input(1) else np.array([], dtype=np.int64)
        if axes is None:
            trace.refuse(call, "axes must be constants; compute them before export")
            return []
        rank = len(trace.shape(call.inputs[0]))
        if not axes.size and call.attributes.get("noop_with_empty_axes", 0):
            return [call.changed(op="Identity", inputs=call.inputs[:1], attributes={})]
        chosen = sorted(
            {axis_of(call, int(axis), rank) for axis in axes.reshape(-1)} or range(rank)
        )
        names = (call.inputs[0], int64_constant(trace, call, "axes", chosen))
        return [call.changed(inputs=names, attributes=attributes)]

    return adapter


def _normalization(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Over the axes from `axis` on, counted from the last one."""
    rank = len(trace.shape(call.inputs[0]))
    axis = axis_of(call, call.attributes.get("axis", -1), rank) - rank
    epsilon = call.attributes.get("epsilon", 1e-5)
    return [call.changed(attributes={"axis": axis, "epsilon": epsilon})]


def _renamed(op: str) -> Adapter:
    return lambda trace, call, opset: [call.changed(op=op)]


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "AveragePool": pool,
    "Concat": move_adapters.concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Dropout": _dropout,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "Hardmax": _coerced,
    "LayerNormalization": _normalization,
    "LogSoftmax": _coerced,
    "Pad": move_adapters.pad,
    "Range": move_adapters.range_,
    "RMSNormalization": _normalization,
    "ReduceSum": _reduce(13),
    "Resize": move_adapters.resize,
    "Scatter": _renamed("ScatterElements"),
    "Slice": move_adapters.slice_,
    "Softmax": _coerced,
    "Split": move_adapters.split,
    "Squeeze": _attribute_to_input("axes", 1, 13),
    "TopK": move_adapters.top_k,
    "Unsqueeze": _attribute_to_input("axes", 1, 13),
    "Upsample": move_adapters.resize,
    **{
        f"Reduce{kind}": _reduce(18)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
}
