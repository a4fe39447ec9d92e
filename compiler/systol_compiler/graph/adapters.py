"""Operators of older (and some newer) operator sets, in the words of operator set 21.

An adapter takes one call and gives the calls that stand for it. Ref: the change logs in
https://onnx.ai/onnx/operators; where those are silent (Resize 10), ONNX Runtime's reading.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from systol_compiler.graph.trace import Call, Trace
from systol_compiler.graph.window_adapters import conv, conv_transpose, pool
from systol_hw.errors import InputError

Adapter = Callable[[Trace, Call, int], list[Call]]
"""Takes the call and the operator set that it was written in."""


def adapt(trace: Trace, call: Call, opset: int) -> list[Call]:
    """The calls of operator set 21 that mean the same; [] where `trace` refused it."""
    adapter = ADAPTERS.get(call.op)
    return [call] if adapter is None else adapter(trace, call, opset)


def _int64(trace: Trace, call: Call, part: str, values: Sequence[int]) -> str:
    return trace.constant(f"{call.name}.{part}", np.array(values, dtype=np.int64))


def _arg(trace: Trace, call: Call, opset: int) -> list[Call]:
    rank = len(trace.shape(call.inputs[0]))
    attributes = dict(call.attributes) | {
        "axis": _axis(call, call.attributes.get("axis", 0), rank),
        "keepdims": int(call.attributes.get("keepdims", 1) == 1),
    }
    return [call.changed(attributes=attributes)]


def _attribute_to_input(key: str, position: int, before: int) -> Adapter:
    """The integers of attribute `key` became input `position` in operator set `before`."""

    def adapter(trace: Trace, call: Call, opset: int) -> list[Call]:
        if opset >= before or key not in call.attributes:
            return [call]
        attributes = dict(call.attributes)
        name = _int64(trace, call, key, attributes.pop(key))
        inputs = [*call.inputs[:position], *[""] * (position - len(call.inputs)), name]
        return [call.changed(inputs=tuple(inputs), attributes=attributes)]

    return adapter


def _batch_normalization(trace: Trace, call: Call, opset: int) -> list[Call]:
    attributes = dict(call.attributes)
    per_element = not attributes.pop("spatial", 1)
    attributes.pop("momentum", None)
    if attributes.pop("training_mode", 0) or any(call.outputs[1:]):
        trace.refuse(call, "batch statistics are not computed; export the model in evaluation mode")
        return []
    if per_element:
        trace.refuse(call, "statistics must be per channel, found spatial=0; set spatial to 1")
        return []
    return [call.changed(attributes=attributes, outputs=call.outputs[:1])]


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
        axis = _axis(call, attributes.get("axis", -1), len(shape))
        return [call.changed(attributes={"axis": axis})]
    axis = _axis(call, attributes.get("axis", 1), len(shape))
    attributes["axis"] = axis
    if prod(shape[axis + 1 :]) == 1:
        return [call.changed(attributes=attributes)]
    flat = trace.tensor_names.take(f"{call.name}.flat")
    result = trace.tensor_names.take(f"{call.name}.result")
    rows = _int64(trace, call, "rows", [prod(shape[:axis]), prod(shape[axis:])])
    back = _int64(trace, call, "shape", shape)
    return [
        call.changed(op="Reshape", inputs=(call.inputs[0], rows), outputs=(flat,), attributes={}),
        call.changed(inputs=(flat,), outputs=(result,), attributes={"axis": 1}),
        call.changed(op="Reshape", inputs=(result, back), attributes={}),
    ]


def _axis(call: Call, axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise InputError(
            f"{call.place}: axis must be between {-rank} and {rank - 1}, but is {axis}; export "
            "the model again"
        )
    return axis % max(rank, 1)


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


def _pad(trace: Trace, call: Call, opset: int) -> list[Call]:
    """All pads, as one constant over all axes; the value only where it is one."""
    attributes = {"mode": call.attributes.get("mode", "constant")}
    rank = len(trace.shape(call.inputs[0]))
    value = ""
    if opset < 11:
        pads: Sequence[int] = call.attributes.get("pads", [])
        if "value" in call.attributes:
            kind = trace.types[call.inputs[0]].dtype
            value = trace.constant(
                f"{call.name}.value", np.array(call.attributes["value"], dtype=kind)
            )
    else:
        known = trace.value(call.inputs[1])
        axes = trace.value(call.input(3)) if call.input(3) else np.arange(rank)
        if known is None or axes is None:
            trace.refuse(call, "pads and axes must be constants; compute them before export")
            return []
        whole = np.zeros((2, rank), dtype=np.int64)
        parts = known.reshape(2, -1) if known.size == 2 * axes.size else None
        if parts is None:
            raise InputError(
                f"{call.place}: pads must hold two numbers for each of {axes.size} axes, but "
                f"hold {known.size}; export the model again"
            )
        for position, axis in enumerate(axes.reshape(-1).tolist()):
            whole[:, _axis(call, axis, rank)] = parts[:, position]
        pads, value = whole.reshape(-1).tolist(), call.input(2)
    inputs = [call.inputs[0], _int64(trace, call, "pads", pads)]
    if value and attributes["mode"] == "constant":
        inputs.append(value)
    return [call.changed(inputs=tuple(inputs), attributes=attributes)]


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
        chosen = sorted({_axis(call, int(axis), rank) for axis in axes.reshape(-1)} or range(rank))
        names = (call.inputs[0], _int64(trace, call, "axes", chosen))
        return [call.changed(inputs=names, attributes=attributes)]

    return adapter


def _resize(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Known scales or sizes over all axes."""
    attributes = {**_RESIZE_DEFAULTS, **call.attributes}
    source = trace.shape(call.inputs[0])
    if not source:
        raise InputError(f"{call.place}: data must have axes; export the model again")
    old = opset < 11 or call.op == "Upsample"
    if old:
        attributes["coordinate_transformation_mode"] = "asymmetric"
    scales_at, sizes_at = (1, 9) if old else (2, 3)
    scales = trace.value(call.input(scales_at)) if call.input(scales_at) else None
    sizes = trace.value(call.input(sizes_at)) if call.input(sizes_at) else None
    if old and "scales" in call.attributes:
        scales = np.array(attributes.pop("scales"), dtype=np.float32)
    if scales is not None and not scales.size:
        scales = None  # versions 11 and 12 leave it out so
    axes = [_axis(call, axis, len(source)) for axis in attributes.pop("axes", range(len(source)))]
    policy = attributes.pop("keep_aspect_ratio_policy", "stretch")
    roi = attributes["coordinate_transformation_mode"] in ("tf_crop_and_resize",)
    if roi or (scales is None and sizes is None) or policy != "stretch":
        trace.refuse(
            call,
            "its sizes must follow from the model's input shapes and cover the whole input, "
            f"found {attributes['coordinate_transformation_mode']!r} with policy {policy!r}; "
            "give it a constant size before export",
        )
        return []
    if (scales if scales is not None else sizes).size != len(axes):  # type: ignore[union-attr]
        raise InputError(
            f"{call.place}: it must have one scale or size for each of {len(axes)} axes; export "
            "the model again"
        )
    if old and scales is not None:
        # Version 10 rounds down when it enlarges, and up when it makes smaller.
        attributes["nearest_mode"] = "ceil" if (scales < 1).any() else "floor"
        if (scales < 1).any() and (scales > 1).any() and attributes["mode"] == "nearest":
            trace.refuse(call, "one axis may not grow while another shrinks; use version 11")
            return []
    attributes.pop("extrapolation_value", None)
    if attributes["mode"] != "cubic":
        attributes.pop("cubic_coeff_a", None)
    if attributes["mode"] != "nearest":
        attributes.pop("nearest_mode")
    inputs = [call.inputs[0], ""]
    if scales is not None:
        whole = np.ones(len(source), dtype=np.float32)
        whole[axes] = scales.reshape(-1)
        inputs.append(trace.constant(f"{call.name}.scales", whole))
    else:
        assert sizes is not None
        wanted = np.array(source, dtype=np.int64)
        wanted[axes] = sizes.reshape(-1)
        inputs += ["", trace.constant(f"{call.name}.sizes", wanted)]
    return [call.changed(op="Resize", inputs=tuple(inputs), attributes=attributes)]


_RESIZE_DEFAULTS: Final[Mapping[str, Any]] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_floor",
}


def _slice(trace: Trace, call: Call, opset: int) -> list[Call]:
    if opset >= 10:
        return [call]
    starts, ends = call.attributes["starts"], call.attributes["ends"]
    axes = call.attributes.get("axes", list(range(len(starts))))
    names = [
        _int64(trace, call, key, values)
        for key, values in (("starts", starts), ("ends", ends), ("axes", axes))
    ]
    return [call.changed(inputs=(call.inputs[0], *names), attributes={})]


def _split(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Every part's size, as a constant."""
    axis = _axis(call, call.attributes.get("axis", 0), len(trace.shape(call.inputs[0])))
    size, parts = trace.shape(call.inputs[0])[axis], len(call.outputs)
    if opset < 13:
        sizes = call.attributes.get("split")
    else:
        known = trace.value(call.input(1)) if call.input(1) else None
        if known is None and call.input(1):
            trace.refuse(call, "the sizes of its parts must be constants")
            return []
        sizes = None if known is None else known.reshape(-1).tolist()
    if sizes is None:
        each = -(-size // parts)
        sizes = [min(each, max(size - each * part, 0)) for part in range(parts)]
    if sum(sizes) != size or len(sizes) != parts or min(sizes, default=1) < 0:
        raise InputError(
            f"{call.place}: its {parts} parts must add up to {size}, but have sizes {sizes}; "
            "export the model again"
        )
    source = call.inputs[0]
    kept = [position for position in range(parts) if sizes[position]]
    for position in range(parts):
        if not sizes[position] and call.outputs[position]:
            shape = list(trace.shape(source))
            shape[axis] = 0
            kind = trace.types[source].dtype
            trace.define(call.outputs[position], np.zeros(shape, dtype=kind))
    name = _int64(trace, call, "sizes", [sizes[position] for position in kept])
    outputs = tuple(call.outputs[position] for position in kept)
    return [call.changed(inputs=(source, name), outputs=outputs, attributes={"axis": axis})]


def _concat(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Without the parts that have no elements."""
    axis = _axis(call, call.attributes["axis"], len(trace.shape(call.inputs[0])))
    kept = tuple(name for name in call.inputs if trace.shape(name)[axis : axis + 1] != (0,))
    return [call.changed(inputs=kept or call.inputs[:1], attributes={"axis": axis})]


def _range(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Three numbers; ONNX's own function bodies write them with an axis of size 1."""
    inputs = []
    for name in call.inputs:
        value = trace.value(name)
        flat = value is not None and value.size == 1 and value.ndim > 0
        inputs.append(
            trace.constant(name, value.reshape(())) if flat and value is not None else name
        )
    return [call.changed(inputs=tuple(inputs))]


def _top_k(trace: Trace, call: Call, opset: int) -> list[Call]:
    if opset >= 10:
        return [call]
    attributes = dict(call.attributes)
    name = _int64(trace, call, "k", [attributes.pop("k")])
    return [call.changed(inputs=(call.inputs[0], name), attributes=attributes)]


def _normalization(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Over the axes from `axis` on, counted from the last one."""
    rank = len(trace.shape(call.inputs[0]))
    axis = _axis(call, call.attributes.get("axis", -1), rank) - rank
    epsilon = call.attributes.get("epsilon", 1e-5)
    return [call.changed(attributes={"axis": axis, "epsilon": epsilon})]


def _renamed(op: str) -> Adapter:
    return lambda trace, call, opset: [call.changed(op=op)]


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "AveragePool": pool,
    "Concat": _concat,
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
    "Pad": _pad,
    "Range": _range,
    "RMSNormalization": _normalization,
    "ReduceSum": _reduce(13),
    "Resize": _resize,
    "Scatter": _renamed("ScatterElements"),
    "Slice": _slice,
    "Softmax": _coerced,
    "Split": _split,
    "Squeeze": _attribute_to_input("axes", 1, 13),
    "TopK": _top_k,
    "Unsqueeze": _attribute_to_input("axes", 1, 13),
    "Upsample": _resize,
    **{
        f"Reduce{kind}": _reduce(18)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
}
