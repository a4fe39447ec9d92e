"""What the passes that recognize patterns ask of a graph."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.graph.editor import exclusive_consumers
from systol_compiler.graph.float_graph import Array, Graph, Node


class Matcher:
    """Questions about a graph's nodes, with constants as numbers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.single = exclusive_consumers(graph)

    def producer(self, name: str, *ops: str) -> Node | None:
        """The node that writes `name`, if it is one of `ops`."""
        node = self.graph.producers.get(name)
        return node if node is not None and node.op in ops else None

    def scalar(self, name: str) -> float | None:
        """The number of a constant that holds only one."""
        value = self.graph.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that is known."""
        return self.graph.constants.get(name)

    def with_scalar(self, name: str, op: str) -> tuple[Node, str, float] | None:
        """For `name` = op(x, number): the node, x and the number."""
        node = self.producer(name, op)
        if node is None or len(node.inputs) != 2:
            return None
        number = self.scalar(node.inputs[1])
        return None if number is None else (node, node.inputs[0], number)

    def with_constant(self, name: str, op: str) -> tuple[Node, str, Array] | None:
        """For `name` = op(x, constant): the node, x and the constant."""
        node = self.producer(name, op)
        if node is None or len(node.inputs) != 2:
            return None
        value = self.constant(node.inputs[1])
        return None if value is None else (node, node.inputs[0], value)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.graph.types[name].shape

    def product(self, node: Node) -> "ProductOf":
        """The factors of a chain of Mul, not too long, that ends at `node`.

        Only inner products that nothing else reads are taken apart.
        """
        found = ProductOf(number=1.0, factors=[], nodes=[])
        self._collect(node, found, 8)
        return found

    def _collect(self, node: Node, found: "ProductOf", depth: int) -> None:
        for name in node.inputs:
            number = self.scalar(name)
            inner = self.producer(name, "Mul")
            if number is not None:
                found.number *= number
            elif inner is not None and name in self.single and depth:
                self._collect(inner, found, depth - 1)
            else:
                found.factors.append(name)
        found.nodes.append(node)


@dataclass
class ProductOf:
    """A product: its constant number, its other factors, and the nodes that multiply."""

    number: float
    factors: list[str]
    nodes: list[Node]


def close(a: float | None, b: float) -> bool:
    """Whether a number of a pattern is what its author meant."""
    return a is not None and bool(np.isclose(a, b, rtol=2e-3, atol=1e-9))
