"""The one mutable view of a graph: what a pass edits before it freezes the result."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from systol_compiler.graph.float_graph import Array, Graph, GraphOutput, Node, TensorType
from systol_compiler.graph.names import FreshNames


class GraphEditor:
    """A graph under edit. Passes append rewritten nodes in order, then `freeze`.

    `rename` forwards readers of a removed tensor to the tensor that replaces it; it applies to
    nodes appended later and to the graph's outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.constants: dict[str, Array] = dict(graph.constants)
        self.types: dict[str, TensorType] = dict(graph.types)
        self._nodes: list[Node] = []
        self._renamed: dict[str, str] = {}
        self._tensor_names = FreshNames(graph.types)
        self._node_names = FreshNames(node.name for node in graph.nodes)

    def resolve(self, name: str) -> str:
        """The tensor that stands for `name` now."""
        while name in self._renamed:
            name = self._renamed[name]
        return name

    def rename(self, old: str, new: str) -> None:
        """Let `new` stand for the removed tensor `old`."""
        self._renamed[old] = self.resolve(new)

    def constant(self, wish: str, value: Any) -> str:
        """Add a constant under a fresh name that starts with `wish`; returns the name."""
        array = np.asarray(value)
        name = self.tensor(wish, TensorType(dtype=str(array.dtype), shape=array.shape))
        self.constants[name] = array
        return name

    def tensor(self, wish: str, kind: TensorType) -> str:
        """Describe a new tensor under a fresh name that starts with `wish`; returns the name."""
        name = self._tensor_names.take(wish)
        self.types[name] = kind
        return name

    def append(
        self,
        node: Node,
        *,
        op: str | None = None,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        sources: tuple[str, ...] | None = None,
    ) -> None:
        """Append `node`, with the given parts replaced and its inputs resolved."""
        if (op, inputs, outputs, attributes, sources) == (None,) * 5 and not (
            self._renamed and any(name in self._renamed for name in node.inputs)
        ):
            self._nodes.append(node)
            return
        self._nodes.append(
            Node(
                name=node.name,
                op=op or node.op,
                inputs=tuple(
                    self.resolve(name) for name in (node.inputs if inputs is None else inputs)
                ),
                outputs=node.outputs if outputs is None else tuple(outputs),
                attributes=node.attributes if attributes is None else attributes,
                sources=sources or node.sources,
                source_op=node.source_op or node.op,
            )
        )

    def insert(
        self,
        node: Node,
        op: str,
        inputs: Iterable[str],
        shape: tuple[int, ...],
        *,
        attributes: Mapping[str, Any] | None = None,
        sources: tuple[str, ...] | None = None,
        dtype: str | None = None,
        output: str | None = None,
    ) -> str:
        """Append a new node that stands for (a part of) `node`; returns its one output.

        The output is a new tensor of `shape` and of the node's own element type, unless
        `dtype` or an existing `output` is given.
        """
        kind = TensorType(dtype=dtype or self.types[node.outputs[0]].dtype, shape=shape)
        if output is None:
            output = self.tensor(f"{node.name}.{op.lower()}", kind)
        self._nodes.append(
            Node(
                name=self._node_names.take(f"{node.name}.{op.lower()}"),
                op=op,
                inputs=tuple(self.resolve(name) for name in inputs),
                outputs=(output,),
                attributes=attributes or {},
                sources=sources or node.sources,
                source_op=node.source_op or node.op,
            )
        )
        return output

    def freeze(self) -> Graph:
        """The edited graph, without the constants and types that nothing uses any more.

        The same object where nothing was changed.
        """
        before = self._graph.nodes
        if not self._renamed and len(before) == len(self._nodes):
            if all(a is b for a, b in zip(before, self._nodes, strict=True)):
                return self._graph
        outputs = tuple(
            GraphOutput(name=result.name, tensor=self.resolve(result.tensor))
            for result in self._graph.outputs
        )
        used = {name for node in self._nodes for name in (*node.inputs, *node.outputs)}
        used |= {result.tensor for result in outputs} | set(self._graph.inputs)
        return Graph(
            name=self._graph.name,
            opset=self._graph.opset,
            inputs=self._graph.inputs,
            outputs=outputs,
            nodes=tuple(self._nodes),
            constants={key: value for key, value in self.constants.items() if key in used},
            types={key: kind for key, kind in self.types.items() if key in used},
        )


def exclusive_consumers(graph: Graph) -> dict[str, Node]:
    """For each tensor read by exactly one node and shown by no output: that node."""
    shown = {result.tensor for result in graph.outputs}
    return {
        name: nodes[0]
        for name, nodes in graph.consumers.items()
        if len(nodes) == 1 and name not in shown
    }


def merged_sources(*nodes: Node) -> tuple[str, ...]:
    """The model's nodes that `nodes` stand for together, each once, in order."""
    return joined_sources(*(node.sources for node in nodes))


def joined_sources(*parts: tuple[str, ...]) -> tuple[str, ...]:
    """Several nodes' sources as one's: each once, in order, `MOST_SOURCES` at most."""
    found: dict[str, None] = {}
    for names in parts:
        for name in names:
            if len(found) == MOST_SOURCES:
                return tuple(found)
            found.setdefault(name)
    return tuple(found)


MOST_SOURCES: Final = 256
"""Longer chains of nodes that became one keep the names of their first ones only: what a chain
of thousands remembers would else grow with its square."""
