"""Splits a canonical graph into what the machine runs and the tail that the host runs."""

from dataclasses import dataclass

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.rules import (
    HOST_OPERATORS,
    MACHINE_OPERATORS,
    SOURCE_OPERATORS,
    check_machine_node,
)
from systol_hw.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Both lists are in the graph's order; no machine node reads what a host node writes."""

    machine: tuple[Node, ...]
    host: tuple[Node, ...]


def partition(graph: Graph) -> Partition:
    """Assign every node, and check the machine's rules.

    A node goes to the host if the machine cannot run its operator, or if it reads a host node's
    result; then nothing for the machine may depend on it.

    Raises
    ------
    UnsupportedModelError
        A node fits neither side, or the machine would run nothing.
    """
    host_written: set[str] = set()
    machine: list[Node] = []
    host: list[Node] = []
    for node in graph.nodes:
        behind_host = next((name for name in node.inputs if name in host_written), None)
        if node.op in MACHINE_OPERATORS and behind_host is None:
            check_machine_node(node, graph)
            machine.append(node)
            continue
        if node.op not in HOST_OPERATORS:
            raise UnsupportedModelError(_refusal(node, graph, behind_host))
        host.append(node)
        host_written.update(node.outputs)
    if not any(node.op in ("Conv", "Gemm", "MaxPool") for node in machine):
        raise UnsupportedModelError(
            f"graph {graph.name!r}: a model must give the machine at least one Conv, Gemm, MatMul "
            f"or MaxPool; found only {sorted({node.op for node in graph.nodes})}; run it with ONNX "
            "Runtime instead"
        )
    return Partition(machine=tuple(machine), host=tuple(host))


def _refusal(node: Node, graph: Graph, behind_host: str | None) -> str:
    if behind_host is not None:
        producer = graph.producers[behind_host]
        return (
            f"{node.place}: only host operators may follow {producer.place}, which runs on the "
            f"host; found {node.source_op or node.op}; end the model at {behind_host!r}, or "
            f"replace {producer.op} by an operator of the machine"
        )
    if node.op == "BatchNormalization" or node.op in ("Add", "Sub", "Mul", "Div"):
        return (
            f"{node.place}: must act per channel, by constants, directly behind a Conv, Gemm or "
            "MatMul that nothing else reads (or before one without pads); found inputs "
            f"{[f'{name}: {graph.types[name]}' for name in node.inputs if name]}; "
            "fold it into a product, or remove it"
        )
    if node.op == "MatMul":
        check_machine_node(node, graph)
    return (
        f"{node.place}: operator {node.op} is not supported; the machine runs {SOURCE_OPERATORS}; "
        f"at the end of a model the host runs {', '.join(sorted(HOST_OPERATORS))}; replace it"
    )
