"""Groups canonical nodes: an operator of the machine with bias, factor and clip behind it."""

from collections.abc import Callable
from math import inf

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.forms.clips import clip_bounds
from systol_compiler.quantized.build import MachineNode
from systol_compiler.quantized.operator import Operator


def fuse(
    graph: Graph, operator_of: Callable[[Node], Operator | None]
) -> tuple[MachineNode | Node, ...]:
    """The graph's nodes in order; those that `operator_of` knows as machine nodes.

    An Add of a constant, a Mul by a number and a Clip (or Relu), in this order, join the operator
    before them if it takes them (`Operator.biases`, `Operator.scales`, `Operator.clips`), if they
    alone read its result, and if nobody else sees what is between.
    """
    shown = {output.tensor for output in graph.outputs}
    joined: set[str] = set()
    units: list[MachineNode | Node] = []
    for node in graph.nodes:
        if node.name in joined:
            continue
        operator = operator_of(node)
        if operator is None:
            units.append(node)
            continue
        output, sources, bias, factor = node.outputs[0], node.sources, "", 1.0
        least, greatest = -inf, inf
        follower = _only_reader(graph, node, output, shown)
        if operator.biases and follower is not None:
            found = _constant_bias(follower, output, graph)
            if found is not None:
                bias, output, sources = found, follower.outputs[0], (*sources, *follower.sources)
                joined.add(follower.name)
                follower = _only_reader(graph, node, output, shown)
        if operator.scales and follower is not None:
            number = _positive_factor(node, follower, output, graph)
            if number is not None:
                factor, output, sources = number, follower.outputs[0], (*sources, *follower.sources)
                joined.add(follower.name)
                follower = _only_reader(graph, node, output, shown)
        if operator.clips and follower is not None:
            bounds = clip_bounds(follower, graph)
            if bounds is not None and follower.inputs[0] == output:
                (least, greatest), output = bounds, follower.outputs[0]
                sources = (*sources, *follower.sources)
                joined.add(follower.name)
        units.append(
            MachineNode(
                node=node, output=output, sources=sources, bias=bias, factor=factor, least=least,
                greatest=greatest,
            )
        )
    return tuple(units)


def _only_reader(graph: Graph, node: Node, tensor: str, shown: set[str]) -> Node | None:
    """The one node that sees `tensor`, if `node` has no other result."""
    readers = graph.consumers.get(tensor, [])
    if tensor in shown or len(readers) != 1 or sum(map(bool, node.outputs)) != 1:
        return None
    return readers[0]


def _constant_bias(node: Node, operand: str, graph: Graph) -> str | None:
    """The constant that an Add gives to `operand`, if it has one value for each index of the last
    axis."""
    if node.op != "Add" or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    name = second if first == operand else first
    constant = graph.constants.get(name)
    shape = graph.types[operand].shape
    if constant is None or not shape or graph.types[node.outputs[0]].shape != shape:
        return None
    if constant.dtype != "float32" or constant.ndim > len(shape) or constant.size != shape[-1]:
        return None
    return name if constant.ndim and constant.shape[-1] == shape[-1] else None


def _positive_factor(node: Node, follower: Node, operand: str, graph: Graph) -> float | None:
    """The positive number by which a Mul behind a node of computed operands multiplies it."""
    if follower.op != "Mul" or any(name in graph.constants for name in node.inputs):
        return None
    names = [name for name in follower.inputs if name != operand]
    constant = graph.constants.get(names[0]) if len(names) == 1 else None
    shape = graph.types[operand].shape
    if constant is None or constant.size != 1 or graph.types[follower.outputs[0]].shape != shape:
        return None
    factor = float(constant.reshape(-1)[0])
    return factor if 0 < factor < inf else None


def inner_result(unit: MachineNode, graph: Graph) -> str:
    """The float tensor behind the operator, its bias and its factor, before its clip."""
    clipped = (unit.least, unit.greatest) != (-inf, inf)
    return graph.producers[unit.output].inputs[0] if clipped else unit.output
