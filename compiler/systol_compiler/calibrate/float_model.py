"""The float model under ONNX Runtime, with chosen tensors observed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from systol_compiler.graph.float_graph import Array, Graph, Node, TensorType, onnx_node, wrap_nodes
from systol_compiler.graph.host_session import HostSession, declare_large

_AXES_ARE_INPUTS = 18
"""Operator set from which ReduceMean takes its axes as an input."""


@dataclass(frozen=True, kw_only=True)
class ChannelMean:
    """The mean of a tensor over all axes but the first (samples) and `axis` (channels)."""

    tensor: str
    axis: int

    @property
    def name(self) -> str:
        """The name of the value that holds it."""
        return f"{self.tensor}/mean.{self.axis}"


class FloatModel:
    """The part of a graph that gives the tensors `observe` and the channel means `means`.

    One session, made once. Large constants are used where they lie.

    Raises
    ------
    UnsupportedModelError
        ONNX Runtime cannot run the graph.
    """

    def __init__(
        self, graph: Graph, observe: Iterable[str], means: Sequence[ChannelMean] = ()
    ) -> None:
        self._graph = graph
        self._observe = tuple(dict.fromkeys(observe))
        self._means = tuple(means)
        wanted = [name for name in self._observe if name in graph.producers]
        nodes = needed_nodes(graph, {*wanted, *(mean.tensor for mean in self._means)})
        protos = [onnx_node(node) for node in nodes]
        constants: dict[str, Array] = dict(graph.constants)
        outputs = {name: graph.types[name] for name in wanted}
        for mean in self._means:
            protos.append(_mean_node(mean, graph, constants))
            kept = graph.types[mean.tensor].shape
            shape = (kept[0], kept[mean.axis]) if mean.axis else (kept[0],)
            outputs[mean.name] = TensorType(dtype="float32", shape=shape)
        self._produced = tuple(outputs)
        read = {name for proto in protos for name in proto.input}
        self._inputs = tuple(name for name in graph.inputs if name in read)
        self._session: HostSession | None = None
        if self._produced:
            model = wrap_nodes(
                name=graph.name,
                opset=graph.opset,
                nodes=protos,
                inputs={name: graph.types[name] for name in self._inputs},
                outputs=outputs,
                constants={},
            )
            large = declare_large(model, constants)
            self._session = HostSession(
                model.SerializeToString(), "the float model", initializers=large
            )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The observed tensors and means, by name, for one batch of the model's own size.

        Raises
        ------
        InputError
            The model fails on these values.
        """
        values = {name: feeds[name] for name in self._observe if name in feeds}
        if self._session is not None:
            results = self._session.run(
                self._produced, {name: feeds[name] for name in self._inputs}
            )
            values |= dict(zip(self._produced, results, strict=True))
        return values


def needed_nodes(graph: Graph, tensors: set[str]) -> list[Node]:
    """The nodes that `tensors` depend on, in the graph's order."""
    wanted = set(tensors)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]


def _mean_node(mean: ChannelMean, graph: Graph, constants: dict[str, Array]) -> NodeProto:
    rank = len(graph.types[mean.tensor].shape)
    axes = [axis for axis in range(1, rank) if axis != mean.axis % rank]
    if not axes:
        return helper.make_node("Identity", [mean.tensor], [mean.name])
    if graph.opset < _AXES_ARE_INPUTS:
        return helper.make_node(
            "ReduceMean", [mean.tensor], [mean.name], axes=axes, keepdims=0
        )
    key = f"{mean.name}/axes"
    constants[key] = np.array(axes, np.int64)
    return helper.make_node("ReduceMean", [mean.tensor, key], [mean.name], keepdims=0)
