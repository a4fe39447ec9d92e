"""Adapters of operators that pad, resize, pick, split and join.

Ref: as `adapters`; where the change logs are silent (Resize 10), ONNX Runtime's reading.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from systol_compiler.graph.adapters.operands import axis_of, int64_constant
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError


def pad(trace: Trace, call: Call, opset: int) -> list[Call]:
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
            whole[:, axis_of(call, axis, rank)] = parts[:, position]
        pads, value = whole.reshape(-1).tolist(), call.input(2)
    inputs = [call.inputs[0], int64_constant(trace, call, "pads", pads)]
    if value and attributes["mode"] == "constant":
        inputs.append(value)
    return [call.changed(inputs=tuple(inputs), attributes=attributes)]


def resize(trace: Trace, call: Call, opset: int) -> list[Call]:
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
    axes = [axis_of(call, axis, len(source)) for axis in attributes.pop("axes", range(len(source)))]
    policy = attributes.pop("keep_aspect_ratio_policy", "stretch")
    roi = attributes["coordinate_transformation_mode"] in ("tf_crop_and_resize",)
    given = sizes if scales is None else scales
    if roi or given is None or policy != "stretch":
        trace.refuse(
            call,
            "its sizes must follow from the model's input shapes and cover the whole input, "
            f"found {attributes['coordinate_transformation_mode']!r} with policy {policy!r}; "
            "give it a constant size before export",
        )
        return []
    if given.size != len(axes):
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
        wanted = np.array(source, dtype=np.int64)
        wanted[axes] = given.reshape(-1)
        inputs += ["", trace.constant(f"{call.name}.sizes", wanted)]
    return [call.changed(op="Resize", inputs=tuple(inputs), attributes=attributes)]


_RESIZE_DEFAULTS: Final[Mapping[str, Any]] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_floor",
}


def slice_(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Starts, ends and axes as constants."""
    if opset >= 10:
        return [call]
    starts, ends = call.attributes["starts"], call.attributes["ends"]
    axes = call.attributes.get("axes", list(range(len(starts))))
    names = [
        int64_constant(trace, call, key, values)
        for key, values in (("starts", starts), ("ends", ends), ("axes", axes))
    ]
    return [call.changed(inputs=(call.inputs[0], *names), attributes={})]


def split(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Every part's size, as a constant."""
    axis = axis_of(call, call.attributes.get("axis", 0), len(trace.shape(call.inputs[0])))
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
    name = int64_constant(trace, call, "sizes", [sizes[position] for position in kept])
    outputs = tuple(call.outputs[position] for position in kept)
    return [call.changed(inputs=(source, name), outputs=outputs, attributes={"axis": axis})]


def concat(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Without the parts that have no elements."""
    axis = axis_of(call, call.attributes["axis"], len(trace.shape(call.inputs[0])))
    kept = tuple(name for name in call.inputs if trace.shape(name)[axis : axis + 1] != (0,))
    return [call.changed(inputs=kept or call.inputs[:1], attributes={"axis": axis})]


def range_(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Three numbers; ONNX's own function bodies write them with an axis of size 1."""
    inputs = []
    for name in call.inputs:
        value = trace.value(name)
        flat = value is not None and value.size == 1 and value.ndim > 0
        inputs.append(
            trace.constant(name, value.reshape(())) if flat and value is not None else name
        )
    return [call.changed(inputs=tuple(inputs))]


def top_k(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Their number as a constant."""
    if opset >= 10:
        return [call]
    attributes = dict(call.attributes)
    name = int64_constant(trace, call, "k", [attributes.pop("k")])
    return [call.changed(inputs=(call.inputs[0], name), attributes=attributes)]
