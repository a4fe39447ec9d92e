"""The one mutable view of a graph: what a pass edits before it freezes the result."""

from collections.abc import Iterable

import numpy as np

from systol_compiler.graph.float_graph import Array, Graph, GraphOutput, Node, TensorType


class Draft:
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

    def resolve(self, name: str) -> str:
        """The tensor that stands for `name` now."""
        while name in self._renamed:
            name = self._renamed[name]
        return name

    def rename(self, old: str, new: str) -> None:
        """Let `new` stand for the removed tensor `old`."""
        self._renamed[old] = self.resolve(new)

    def constant(self, wish: str, value: Array) -> str:
        """Add a constant under a fresh name that starts with `wish`; returns the name."""
        name, count = wish, 1
        while name in self.types:
            count += 1
            name = f"{wish}.{count}"
        self.constants[name] = value
        self.types[name] = TensorType(dtype=str(value.dtype), shape=value.shape)
        return name

    def tensor(self, wish: str, kind: TensorType) -> str:
        """Describe a new tensor under a fresh name that starts with `wish`; returns the name."""
        name, count = wish, 1
        while name in self.types:
            count += 1
            name = f"{wish}.{count}"
        self.types[name] = kind
        return name

    def append(
        self,
        node: Node,
        *,
        op: str | None = None,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        attributes: dict[str, object] | None = None,
        sources: tuple[str, ...] | None = None,
    ) -> None:
        """Append `node`, with the given parts replaced and its inputs resolved."""
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

    def freeze(self) -> Graph:
        """The edited graph, without the constants and types that nothing uses any more."""
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


def as_float64(value: Array) -> Array:
    """`value` widened, so that folding rounds once, at the end."""
    return value.astype(np.float64)
