"""The float model with its activations rounded to chosen numbers: what a choice of ranges costs."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, helper

from systol_compiler.calibrate.float_model import needed_nodes
from systol_compiler.calibrate.grouping import TensorGroup
from systol_compiler.graph.float_graph import Array, Graph, TensorType, onnx_node, wrap_nodes
from systol_compiler.graph.host_session import HostSession, declare_large
from systol_compiler.quantized.build import Numbers


class FakeQuantizedModel:
    """Runs a graph whose tensors of 8 bits go through QuantizeLinear and DequantizeLinear.

    Scales and zero points are inputs, so that one session prices many choices. Weights stay as
    they are, and tensors of 16 bits too.

    Attributes
    ----------
    results
        The tensors that are compared.
    """

    def __init__(
        self, graph: Graph, groups: Sequence[TensorGroup], results: Sequence[str]
    ) -> None:
        self._graph = graph
        self._groups = [group for group in groups if not group.wide]
        self.results = tuple(results)
        nodes = needed_nodes(graph, set(results))
        needed = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        member = {
            name: index
            for index, group in enumerate(self._groups)
            for name in group.observed
            if name in needed
        }
        renamed: dict[str, str] = {}
        protos: list[NodeProto] = []

        def round_(name: str) -> None:
            if name in member:
                numbers = [f"scale.{member[name]}", f"zero_point.{member[name]}"]
                codes, renamed[name] = f"{name}/codes", f"{name}/rounded"
                protos.append(helper.make_node("QuantizeLinear", [name, *numbers], [codes]))
                protos.append(
                    helper.make_node("DequantizeLinear", [codes, *numbers], [renamed[name]])
                )

        for name in graph.inputs:
            round_(name)
        for node in nodes:
            proto = onnx_node(node)
            inputs = [renamed.get(name, name) for name in proto.input]
            del proto.input[:]
            proto.input.extend(inputs)
            protos.append(proto)
            for name in node.outputs:
                round_(name)
        self._outputs = [renamed.get(name, name) for name in results]
        self._used = sorted(set(member.values()))
        read = {name for proto in protos for name in proto.input}
        self._inputs = [name for name in graph.inputs if name in read]
        types = {name: graph.types[name] for name in self._inputs}
        for index in self._used:
            types[f"scale.{index}"] = TensorType(dtype="float32", shape=())
            types[f"zero_point.{index}"] = TensorType(dtype="int8", shape=())
        model = wrap_nodes(
            name=graph.name,
            opset=graph.opset,
            nodes=protos,
            inputs=types,
            outputs={
                value: graph.types[name]
                for value, name in zip(self._outputs, results, strict=True)
            },
            constants={},
        )
        large = declare_large(model, graph.constants)
        self._session = HostSession(
            model.SerializeToString(), "the float model", initializers=large
        )

    def run(self, feeds: Mapping[str, Array], numbers: Mapping[str, Numbers]) -> list[Array]:
        """The results, under `numbers` by tensor."""
        values = {name: feeds[name] for name in self._inputs}
        for index in self._used:
            chosen = numbers[self._groups[index].members[0]]
            values[f"scale.{index}"] = np.array(chosen.scale, np.float32)
            values[f"zero_point.{index}"] = np.array(chosen.zero_point, np.int8)
        return self._session.run(self._outputs, values)
