"""Convolutions and pools with every attribute explicit: no auto_pad, output_shape or ceil_mode.

Done on reading, because what ONNX's shape inference makes of these attributes is not always what
the operators' definitions say; of explicit pads it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from systol_compiler.graph.adapters.operand_rules import check_operands
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError


def _stated(call: Call, kernel: Sequence[int]) -> dict[str, Any]:
    ones = [1] * len(kernel)
    return {
        **call.attributes,
        "kernel_shape": list(kernel),
        "strides": list(call.attributes.get("strides", ones)),
        "dilations": list(call.attributes.get("dilations", ones)),
    }


def conv(trace: Trace, call: Call, opset: int) -> list[Call]:
    """Conv with explicit attributes."""
    check_operands(trace, call)
    attributes = _stated(call, trace.shape(call.inputs[1])[2:])
    attributes["group"] = int(attributes.get("group", 1))
    attributes["pads"] = explicit_pads(attributes, trace.shape(call.inputs[0]))
    attributes.pop("auto_pad", None)
    return [call.changed(attributes=attributes)]


def explicit_pads(attributes: dict[str, Any], shape: Sequence[int]) -> list[int]:
    """Pads [begins..., ends...]; auto_pad as ONNX Conv (version 11) defines it."""
    mode = attributes.get("auto_pad", "NOTSET")
    axes = range(len(attributes["kernel_shape"]))
    if mode == "NOTSET":
        return list(attributes.get("pads", [0, 0] * len(axes)))
    if mode == "VALID":
        return [0, 0] * len(axes)
    before, after = [], []
    for axis in axes:
        kernel, stride, dilation = (
            int(attributes[key][axis]) for key in ("kernel_shape", "strides", "dilations")
        )
        size = shape[2 + axis]
        steps = -(-size // stride)
        total = max((steps - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(large if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else large)
    return [*before, *after]


def conv_transpose(trace: Trace, call: Call, opset: int) -> list[Call]:
    """ConvTranspose with explicit pads; ref: its equations in ONNX, version 11."""
    check_operands(trace, call)
    sizes = trace.shape(call.inputs[0])[2:]
    attributes = _stated(call, trace.shape(call.inputs[1])[2:])
    attributes["group"] = int(attributes.get("group", 1))
    axes = range(len(sizes))
    extra = list(attributes.get("output_padding", [0] * len(axes)))
    pads = list(attributes.get("pads", [0, 0] * len(axes)))
    mode = attributes.pop("auto_pad", "NOTSET")
    wanted = attributes.pop("output_shape", None)
    if mode == "VALID":
        pads = [0, 0] * len(axes)
    if wanted is None and mode.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(sizes, attributes["strides"], strict=True)]
    if wanted is not None:
        wanted = list(wanted)[-len(axes) :]
        if len(wanted) != len(axes) or min(wanted) < 1:
            raise InputError(
                f"{call.place}: output_shape must be {len(axes)} positive numbers, but is "
                f"{wanted}; export the model again"
            )
        for axis in axes:
            kernel, stride, dilation = (
                int(attributes[key][axis]) for key in ("kernel_shape", "strides", "dilations")
            )
            full = stride * (sizes[axis] - 1) + extra[axis] + dilation * (kernel - 1) + 1
            total = full - wanted[axis]
            if total < 0:
                # ONNX Runtime's reading of SAME: never more than the taps reach.
                extra[axis] -= 0 if mode.startswith("SAME") else total
                total = 0
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            pads[axis], pads[len(axes) + axis] = begin, total - begin
    attributes |= {"pads": pads, "output_padding": extra}
    return [call.changed(attributes=attributes)]


def pool(trace: Trace, call: Call, opset: int) -> list[Call]:
    """MaxPool or AveragePool with explicit pads.

    One that rounds its size up gets pads at the end that give the same size: windows that would
    begin in them are none. Pads of AveragePool that count are then zeros from a Pad before it,
    since what rounding adds never counts.
    """
    check_operands(trace, call)
    attributes = _stated(call, call.attributes["kernel_shape"])
    shape = trace.shape(call.inputs[0])
    pads = explicit_pads(attributes, shape)
    axes = len(pads) // 2
    rest = [0] * axes
    for axis in range(axes if attributes.get("ceil_mode", 0) else 0):
        kernel, stride, dilation = (
            attributes[key][axis] for key in ("kernel_shape", "strides", "dilations")
        )
        size, begin, end = shape[2 + axis], pads[axis], pads[axes + axis]
        reach = dilation * (kernel - 1) + 1
        steps = -(-(size + begin + end - reach) // stride) + 1
        if (steps - 1) * stride >= size + begin:
            steps -= 1
        rest[axis] = max((steps - 1) * stride + reach - size - begin - end, 0)
        # Where the last windows would begin in the pads, there are fewer of them.
        spare = size + begin + end + rest[axis] - ((steps - 1) * stride + reach)
        if spare >= stride:
            pads[axes + axis] -= min(spare - stride + 1, end)
    kept = {key: attributes[key] for key in ("kernel_shape", "strides", "dilations")}
    reach = [pads[axes + axis] + rest[axis] for axis in range(axes)]
    if any(rest) and any(a >= b for a, b in zip(reach, kept["kernel_shape"], strict=True)):
        trace.refuse(
            call,
            f"rounding its size up must add fewer pads than its kernel {kept['kernel_shape']}, "
            f"but makes them {reach}; set ceil_mode to 0",
        )
        return []
    if call.op == "MaxPool":
        if attributes.get("storage_order", 0):
            kept["storage_order"] = attributes["storage_order"]
    else:
        counted = bool(attributes.get("count_include_pad", 0)) and any(pads)
        if counted and any(rest):
            return _padded(trace, call, kept, pads, rest)
        kept["count_include_pad"] = int(counted)
    kept["pads"] = [*pads[:axes], *(a + b for a, b in zip(pads[axes:], rest, strict=True))]
    return [call.changed(attributes=kept)]


def _padded(
    trace: Trace, call: Call, kept: dict[str, Any], pads: Sequence[int], rest: Sequence[int]
) -> list[Call]:
    """An AveragePool behind a Pad of zeros, which count."""
    axes = len(rest)
    whole = np.array([0, 0, *pads[:axes], 0, 0, *pads[axes:]], dtype=np.int64)
    amounts = trace.constant(f"{call.name}.pads", whole)
    inner = trace.tensor_names.take(f"{call.name}.padded")
    attributes = {**kept, "count_include_pad": 0, "pads": [*([0] * axes), *rest]}
    return [
        call.changed(
            op="Pad",
            inputs=(call.inputs[0], amounts),
            outputs=(inner,),
            attributes={"mode": "constant"},
        ),
        call.changed(inputs=(inner,), attributes=attributes),
    ]
