"""Recognizes activations that exporters write out by their formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.forms.clips import clip_bounds
from systol_compiler.graph.matching import Matcher, ProductOf, close


@dataclass(frozen=True)
class _Found:
    """An activation of `source` times `factor`, and the nodes that spelled it."""

    op: str
    source: str
    attributes: dict[str, Any]
    nodes: tuple[Node, ...]
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RecognizeActivations:
    """Write Gelu, Swish, Mish, HardSwish, HardSigmoid, Softplus and Softsign as one node each.

    Expects arithmetic in canonical form: constants second, division by them as Mul.
    """

    name: str = "recognize-activations"

    def run(self, graph: Graph) -> Graph:
        editor, match = GraphEditor(graph), Matcher(graph)
        for node in graph.nodes:
            found = _recognize(node, match)
            if found is None or graph.types[node.outputs[0]].dtype != "float32":
                editor.append(node)
                continue
            sources = merged_sources(*found.nodes, node)
            shape = graph.types[node.outputs[0]].shape
            if close(found.factor, 1.0):
                editor.append(
                    node,
                    op=found.op,
                    inputs=(found.source,),
                    attributes=found.attributes,
                    sources=sources,
                )
                continue
            inner = editor.insert(
                node, found.op, (found.source,), shape, attributes=found.attributes, sources=sources
            )
            factor = editor.constant(f"{node.name}.factor", np.array(found.factor, np.float32))
            editor.append(node, op="Mul", inputs=(inner, factor), attributes={})
        return editor.freeze()


def _recognize(node: Node, match: Matcher) -> _Found | None:
    if node.op == "Log":
        return _softplus(node, match)
    if node.op == "Div":
        return _softsign(node, match)
    if node.op == "Where":
        return _softplus_of_large(node, match)
    if node.op != "Mul":
        return None
    follower = match.single.get(node.outputs[0])
    if follower is not None and follower.op == "Mul" and not _same_twice(follower):
        # The product goes on: the last node of the chain decides, if any does.
        whole = _by_factors(match.product(_last(node, match)), match)
        if whole is not None and node in whole.nodes:
            return None
    return _by_factors(match.product(node), match) or _hard_sigmoid(node, match)


def _same_twice(node: Node) -> bool:
    return len(set(node.inputs)) < len(node.inputs)


def _last(node: Node, match: Matcher) -> Node:
    for _ in range(8):
        follower = match.single.get(node.outputs[0])
        if follower is None or follower.op != "Mul":
            break
        node = follower
    return node


def _by_factors(product: ProductOf, match: Matcher) -> _Found | None:
    """x times a gate of x, in either order and with any number in between."""
    if len(product.factors) != 2:
        return None
    for source, gate in (product.factors, product.factors[::-1]):
        if match.shape(source) != match.shape(gate):
            continue
        for rule in _GATES:
            found = rule(source, gate, match)
            if found is not None:
                nodes = (*found.nodes, *product.nodes)
                factor = found.factor * product.number
                return _Found(found.op, source, found.attributes, nodes, factor)
    return None


def _gelu_erf(source: str, gate: str, match: Matcher) -> _Found | None:
    """x * (1 + Erf(x / sqrt(2))), twice what Gelu is."""
    one = match.with_scalar(gate, "Add")
    if one is None or not close(one[2], 1.0):
        return None
    erf = match.producer(one[1], "Erf")
    inner = None if erf is None else match.with_scalar(erf.inputs[0], "Mul")
    if erf is None or inner is None or inner[1] != source or not close(inner[2], sqrt(0.5)):
        return None
    return _Found("Gelu", source, {"approximate": "none"}, (inner[0], erf, one[0]), 2.0)


def _gelu_tanh(source: str, gate: str, match: Matcher) -> _Found | None:
    """x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), twice what Gelu is."""
    one = match.with_scalar(gate, "Add")
    if one is None or not close(one[2], 1.0):
        return None
    tanh = match.producer(one[1], "Tanh")
    scaled = None if tanh is None else match.with_scalar(tanh.inputs[0], "Mul")
    if tanh is None or scaled is None or not close(scaled[2], sqrt(2 / pi)):
        return None
    inner = match.producer(scaled[1], "Add")
    if inner is None or source not in inner.inputs:
        return None
    cubic = inner.inputs[1] if inner.inputs[0] == source else inner.inputs[0]
    nodes = _cube(source, cubic, match)
    if nodes is None:
        return None
    attributes = {"approximate": "tanh"}
    return _Found("Gelu", source, attributes, (*nodes, inner, scaled[0], tanh, one[0]), 2.0)


def _cube(source: str, name: str, match: Matcher) -> tuple[Node, ...] | None:
    """The nodes of 0.044715 * x^3, however it is multiplied."""
    node = match.producer(name, "Mul")
    if node is None:
        return None
    product = match.product(node)
    if not close(product.number, 0.044715):
        return None
    power, nodes = 0.0, list(product.nodes)
    for factor in product.factors:
        raised = match.with_scalar(factor, "Pow")
        if factor == source:
            power += 1
        elif raised is not None and raised[1] == source:
            power += raised[2]
            nodes.append(raised[0])
        else:
            return None
    return tuple(nodes) if close(power, 3.0) else None


def _swish(source: str, gate: str, match: Matcher) -> _Found | None:
    """x * Sigmoid(alpha * x)."""
    sigmoid = match.producer(gate, "Sigmoid")
    if sigmoid is None:
        return None
    if sigmoid.inputs[0] == source:
        return _Found("Swish", source, {"alpha": 1.0}, (sigmoid,))
    scaled = match.with_scalar(sigmoid.inputs[0], "Mul")
    if scaled is None or scaled[1] != source:
        return None
    return _Found("Swish", source, {"alpha": scaled[2]}, (scaled[0], sigmoid))


def _mish(source: str, gate: str, match: Matcher) -> _Found | None:
    """x * Tanh(Softplus(x))."""
    tanh = match.producer(gate, "Tanh")
    plus = None if tanh is None else match.producer(tanh.inputs[0], "Softplus", "Log")
    if tanh is None or plus is None:
        return None
    if plus.op == "Softplus" and plus.inputs[0] == source:
        return _Found("Mish", source, {}, (plus, tanh))
    spelled = _softplus(plus, match) if plus.op == "Log" else None
    if spelled is None or spelled.source != source:
        return None
    return _Found("Mish", source, {}, (*spelled.nodes, plus, tanh))


def _hard_swish(source: str, gate: str, match: Matcher) -> _Found | None:
    """x * HardSigmoid(x; 1/6, 1/2), or x * Clip(x + 3, 0, 6), six times that."""
    node = match.producer(gate, "HardSigmoid")
    if node is not None and node.inputs[0] == source:
        alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        if close(alpha, 1 / 6) and close(beta, 0.5):
            return _Found("HardSwish", source, {}, (node,))
    clipped = _clipped_sum(gate, match)
    if clipped is None or clipped.source != source:
        return None
    shift, least, greatest = clipped.attributes["clip"]
    if not (close(shift, 3.0) and least == 0 and close(greatest, 6.0)):
        return None
    return _Found("HardSwish", source, {}, clipped.nodes, 6.0)


def _clipped_sum(name: str, match: Matcher) -> _Found | None:
    """Clip(x + shift, least, greatest), also as Min of Max or Relu."""
    node = match.graph.producers.get(name)
    bounds = None if node is None else clip_bounds(node, match.graph)
    if node is None or bounds is None:
        return None
    source, nodes, (least, greatest) = node.inputs[0], [node], bounds
    inner = match.graph.producers.get(source)
    more = None if inner is None else clip_bounds(inner, match.graph)
    if inner is not None and more is not None:
        source, nodes = inner.inputs[0], [inner, node]
        least, greatest = min(max(more[0], least), greatest), min(max(more[1], least), greatest)
    shifted = match.with_scalar(source, "Add")
    if shifted is None:
        return None
    attributes = {"clip": (shifted[2], least, greatest)}
    return _Found("Clip", shifted[1], attributes, (shifted[0], *nodes))


def _hard_sigmoid(node: Node, match: Matcher) -> _Found | None:
    """Clip(x + b, 0, c) / c."""
    factor = match.scalar(node.inputs[1])
    clipped = None if factor is None else _clipped_sum(node.inputs[0], match)
    if clipped is None or factor is None:
        return None
    shift, least, greatest = clipped.attributes["clip"]
    if least != 0 or not close(greatest * factor, 1.0):
        return None
    attributes = {"alpha": factor, "beta": shift * factor}
    return _Found("HardSigmoid", clipped.source, attributes, clipped.nodes)


def _softplus(node: Node, match: Matcher) -> _Found | None:
    """Log(Exp(x) + 1)."""
    one = match.with_scalar(node.inputs[0], "Add")
    if one is None or one[2] != 1.0:
        return None
    exponential = match.producer(one[1], "Exp")
    if exponential is None:
        return None
    return _Found("Softplus", exponential.inputs[0], {}, (exponential, one[0]))


def _softplus_of_large(node: Node, match: Matcher) -> _Found | None:
    """Where(x > 20, x, Softplus(x)): there it is x to the last bit but one."""
    mask, source, other = node.inputs
    greater = match.with_scalar(mask, "Greater")
    plus = match.producer(other, "Softplus")
    if greater is None or plus is None or greater[1] != source or plus.inputs[0] != source:
        return None
    if greater[2] < 15:
        return None
    return _Found("Softplus", source, {}, (plus, greater[0]))


def _softsign(node: Node, match: Matcher) -> _Found | None:
    """x / (Abs(x) + 1)."""
    source, divisor = node.inputs
    one = match.with_scalar(divisor, "Add")
    absolute = None if one is None else match.producer(one[1], "Abs")
    if one is None or absolute is None or one[2] != 1.0 or absolute.inputs[0] != source:
        return None
    return _Found("Softsign", source, {}, (absolute, one[0]))


_GATES: Final[tuple[Callable[[str, str, Matcher], _Found | None], ...]] = (
    _gelu_erf,
    _gelu_tanh,
    _swish,
    _mish,
    _hard_swish,
)
