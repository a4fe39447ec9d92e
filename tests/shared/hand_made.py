"""Compiled models made by hand, whose answers are known: copies, and ONNX on the host."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from systol_compiler.binary.host_graph import canonical
from systol_compiler.binary.model import (
    Binding,
    CompiledModel,
    HostSegment,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
    Segment,
)
from systol_compiler.binary.window_bytes import window_size
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PRESETS, Arch
from systol_hw.isa.assembly import assemble
from systol_hw.program import Window, make_program

NANO = PRESETS["nano"]


def f32(*shape: int) -> TensorType:
    return TensorType(dtype="float32", shape=shape)


def quantized(
    name: str, shape: Sequence[int], *, scale: float = 0.5, zero_point: int = 3, width: int = 8,
    source: str = "",
) -> QTensor:
    return QTensor(
        name=name, shape=tuple(shape), scale=scale, zero_point=zero_point if width == 8 else 0,
        width=width, source=source,
    )


def copies(
    name: str,
    pairs: Sequence[tuple[QTensor, QTensor]],
    orders: Mapping[str, tuple[int, ...]] | None = None,
    *,
    arch: Arch = NANO,
) -> MachineSegment:
    """A segment that copies the codes of each pair's first tensor to its second, as they lie: a
    window each, a layer each."""
    orders = orders or {}
    lines: list[str] = []
    inputs: list[Binding] = []
    outputs: list[Binding] = []
    ranges, windows = [], []
    for number, (a, b) in enumerate(pairs):
        size = window_size(a)
        assert size == window_size(b)
        at = number * (-(-size // 64) * 64)
        start = len(lines)
        lines += [
            f"tag tag={number + 1}",
            f"read_host signal=store window={2 * number} ub_address={at} run_bytes={size}",
            f"write_host wait=load window={2 * number + 1} ub_address={at} run_bytes={size}",
        ]
        ranges.append(
            LayerRange(
                layer=f"{name}.copy{number}", first=start, count=3, tag=number + 1,
                source_nodes=(f"copy{number}",),
            )
        )
        for tensor, bindings in ((a, inputs), (b, outputs)):
            order = orders.get(tensor.name, tuple(range(len(tensor.shape))))
            bindings.append(Binding(tensor=tensor.name, window=tensor.name, order=order))
            windows.append(Window(name=tensor.name, size_bytes=size))
    program = make_program(
        arch, assemble("\n".join([*lines, "halt"])), windows=tuple(windows),
        weight_image=np.arange(100, dtype=np.uint8),
    )
    return MachineSegment(
        name=name, program=program, inputs=tuple(inputs), outputs=tuple(outputs),
        layers=tuple(ranges),
    )


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    def info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
        return helper.make_tensor_value_info(name, element, kind.shape)

    graph = helper.make_graph(
        list(nodes), "host",
        [info(*item) for item in inputs.items()], [info(*item) for item in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def on_host(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    constants: Mapping[str, Any] | None = None,
) -> HostSegment:
    return host_segment(name, onnx_model(nodes, inputs, outputs, constants))


def host_segment(name: str, model: onnx.ModelProto) -> HostSegment:
    stored = {tensor.name for tensor in model.graph.initializer}
    return HostSegment(
        name=name,
        inputs=tuple(item.name for item in model.graph.input if item.name not in stored),
        outputs=tuple(item.name for item in model.graph.output),
        model=canonical(model),
        operators=tuple(dict.fromkeys(node.op_type for node in model.graph.node)),
        reason="the machine has none of them",
        source_nodes=tuple(f"node{n}" for n in range(len(model.graph.node))),
    )


def compiled(
    segments: Sequence[Segment],
    tensors: Sequence[QTensor],
    real: Mapping[str, TensorType],
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    **more: Any,
) -> CompiledModel:
    return CompiledModel(
        name="by hand", arch=NANO, segments=tuple(segments),
        tensors={tensor.name: tensor for tensor in tensors}, real=real,
        inputs=tuple(ModelInput(name=name) for name in inputs),
        outputs=tuple(ModelOutput(name=name, tensor=tensor) for name, tensor in outputs.items()),
        **more,
    )


def copy_model(shape: Sequence[int] = (2, 3, 4), width: int = 8, **more: Any) -> CompiledModel:
    """`y = x`, rounded to steps of a half."""
    x = quantized("x", shape, width=width, source="x")
    y = quantized("y", shape, width=width, source="y")
    order = tuple(reversed(range(len(shape))))
    return compiled(
        [copies("machine", [(x, y)], {"x": order, "y": order})], [x, y],
        {"x": f32(*shape), "y": f32(*shape)}, ["x"], {"y": "y"}, **more,
    )


def sandwich_model(batch: int = 2) -> CompiledModel:
    """Bytes and token ids in, host, machine, host, machine, host out.

    `image` uint8 [n, 2, 3] and `ids` int64 [n, 4]; `scaled` float32 [n, 2, 3] is `image * 0.1`,
    `rows` float32 [n, 4, 2] the embedding of `ids`; both are copied by the machine (8 and 16 bits).
    `total` float32 [n, 1] sums `scaled`; `wide` is `rows` times 2, copied again.
    """
    n = batch
    table = np.linspace(-3, 3, 20, dtype=np.float32).reshape(10, 2)
    node = helper.make_node
    before = on_host(
        "before",
        [
            node("Cast", ["image"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("Mul", ["floats", "tenth"], ["scaled"]),
            node("Gather", ["table", "ids"], ["rows"]),
        ],
        {"image": TensorType(dtype="uint8", shape=(n, 2, 3)),
         "ids": TensorType(dtype="int64", shape=(n, 4))},
        {"scaled": f32(n, 2, 3), "rows": f32(n, 4, 2)},
        {"tenth": np.float32(0.1), "table": table},
    )
    scaled = quantized("scaled", (n, 2, 3), scale=0.125, zero_point=-100, source="scaled")
    rows = quantized("rows", (n, 4, 2), scale=0.0009765625, width=16, source="rows")
    scaled2 = quantized("scaled2", (n, 2, 3), scale=0.125, zero_point=-100, source="scaled_out")
    rows2 = quantized("rows2", (n, 4, 2), scale=0.0009765625, width=16, source="rows_out")
    first = copies(
        "first", [(scaled, scaled2), (rows, rows2)], {"rows": (0, 2, 1), "rows2": (0, 2, 1)}
    )
    middle = on_host(
        "middle",
        [
            node("ReduceSum", ["scaled_out", "axes"], ["total"], keepdims=0),
            node("Unsqueeze", ["total", "last"], ["column"]),
            node("Mul", ["rows_out", "two"], ["doubled"]),
        ],
        {"scaled_out": f32(n, 2, 3), "rows_out": f32(n, 4, 2)},
        {"column": f32(n, 1), "doubled": f32(n, 4, 2)},
        {"axes": np.array([1, 2]), "last": np.array([1]), "two": np.float32(2)},
    )
    doubled = quantized("doubled", (n, 4, 2), scale=0.03125, zero_point=0, source="doubled")
    again = quantized("again", (n, 4, 2), scale=0.03125, zero_point=0, source="wide_real")
    wider = quantized("rows3", (n, 4, 2), scale=0.0009765625, width=16, source="rows_again")
    second = copies("second", [(doubled, again), (rows2, wider)])
    after = on_host(
        "after", [node("Identity", ["wide_real"], ["wide"])],
        {"wide_real": f32(n, 4, 2)}, {"wide": f32(n, 4, 2)},
    )
    tensors = [scaled, rows, scaled2, rows2, doubled, again, wider]
    return compiled(
        [before, first, middle, second, after], tensors,
        {
            "image": TensorType(dtype="uint8", shape=(n, 2, 3)),
            "ids": TensorType(dtype="int64", shape=(n, 4)),
            "scaled": f32(n, 2, 3), "rows": f32(n, 4, 2), "scaled_out": f32(n, 2, 3),
            "rows_out": f32(n, 4, 2), "column": f32(n, 1), "doubled": f32(n, 4, 2),
            "wide_real": f32(n, 4, 2), "wide": f32(n, 4, 2), "rows_again": f32(n, 4, 2),
        },
        ["image", "ids"], {"total": "column", "wide": "wide", "rows": "rows_again"},
        report={"answer": 42},
    )
