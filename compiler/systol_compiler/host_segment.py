"""Builds the host segment: the model's tail as an ONNX graph over the machine's int8 tensors."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from systol_compiler.fusion import FusedGraph
from systol_compiler.graph.float_graph import Array, TensorType, onnx_node, wrap_nodes
from systol_compiler.old_quantized import HostOutput, HostSegment, QTensor
from systol_compiler.rules import MACHINE_OPERATORS


def build_host_segment(fused: FusedGraph, tensors: dict[str, QTensor]) -> HostSegment | None:
    """One segment of all host nodes, or None if there are none.

    Each int8 tensor that it reads is brought to the source's layout and dequantized, by the
    boundary formula, by nodes of the segment itself.
    """
    if not fused.host:
        return None
    graph = fused.graph
    written = {name for node in fused.host for name in node.outputs}
    needed = dict.fromkeys(
        name for node in fused.host for name in node.inputs if name in fused.views
    )
    prefix = _fresh("systol", set(graph.types) | {result.name for result in graph.outputs})
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = dict(graph.constants)
    inputs: dict[str, TensorType] = {}
    own_names: dict[str, str] = {}
    for index, name in enumerate(needed):
        view = fused.views[name]
        tensor = tensors[view.tensor]
        stem = f"{prefix}.{index}"
        inputs[tensor.name] = TensorType(dtype="int8", shape=tensor.shape)
        constants[f"{stem}.scale"] = np.array(tensor.scale, dtype=np.float32)
        constants[f"{stem}.zero_point"] = np.array(tensor.zero_point, dtype=np.float32)
        constants[f"{stem}.shape"] = np.array(graph.types[name].shape, dtype=np.int64)
        # A name of its own, since `name` may be that of the int8 tensor.
        own_names[name] = f"{stem}.real"
        # Not DequantizeLinear: ONNX Runtime 1.32 moves that one through later reshapes, and from
        # operator set 21 on gives the QuantizeLinear that it inserts the wrong type.
        nodes += [
            helper.make_node(op, inputs_of, [result], **attributes)
            for op, inputs_of, result, attributes in (
                ("Transpose", [tensor.name], f"{stem}.ordered", {"perm": list(view.permutation)}),
                ("Reshape", [f"{stem}.ordered", f"{stem}.shape"], f"{stem}.stored", {}),
                ("Cast", [f"{stem}.stored"], f"{stem}.wide", {"to": TensorProto.FLOAT}),
                ("Sub", [f"{stem}.wide", f"{stem}.zero_point"], f"{stem}.steps", {}),
                ("Mul", [f"{stem}.steps", f"{stem}.scale"], own_names[name], {}),
            )
        ]
    for node in fused.host:
        proto = onnx_node(node)
        renamed = [own_names.get(name, name) for name in proto.input]
        del proto.input[:]
        proto.input.extend(renamed)
        nodes.append(proto)
    shown = {result.name: result.tensor for result in graph.outputs if result.tensor in written}
    for name, tensor_name in shown.items():
        if name != tensor_name:
            nodes.append(helper.make_node("Identity", [tensor_name], [name]))
    kinds = {name: graph.types[tensor_name] for name, tensor_name in shown.items()}
    model = wrap_nodes(
        name=f"{graph.name}.host",
        opset=graph.opset,
        nodes=nodes,
        inputs=inputs,
        outputs=kinds,
        constants=constants,
    )
    operators = tuple(dict.fromkeys(node.op for node in fused.host))
    first = next(node for node in fused.host if node.op not in MACHINE_OPERATORS)
    return HostSegment(
        name="host",
        inputs=tuple(inputs),
        outputs=tuple(
            HostOutput(name=name, source_shape=kind.shape, dtype=kind.dtype)
            for name, kind in kinds.items()
        ),
        model=model.SerializeToString(deterministic=True),
        operators=operators,
        reason=f"the machine has no {first.op}, first met in {first.place}",
        source_nodes=tuple(name for node in fused.host for name in node.sources),
    )


def _fresh(wish: str, taken: set[str]) -> str:
    while any(name.startswith(f"{wish}.") for name in taken):
        wish += "_"
    return wish
