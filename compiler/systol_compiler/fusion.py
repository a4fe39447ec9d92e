"""Groups canonical machine nodes into the layers that the quantized graph will have."""

from dataclasses import dataclass
from math import inf, prod

from systol_compiler.graph.clips import clip_bounds
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.partition import Partition
from systol_hw.errors import UnsupportedModelError

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedLayer:
    """A product with its clip, or a pool, still in float.

    `output` is the tensor behind the clip; the bounds are infinite where nothing clips.
    """

    node: Node
    input: str
    output: str
    least: float
    greatest: float
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """How a float tensor of the graph lies in an int8 tensor.

    The float tensor is `tensor.transpose(permutation).reshape(its own shape)`.
    """

    tensor: str
    shape: tuple[int, ...]
    permutation: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedGraph:
    """The machine's layers in order, and where each float tensor lies.

    `views` covers every float tensor of the machine's part that is an input, a layer's output or
    a flattened form of one. `scale_root` maps a tensor whose scale is bound to another's (a
    pool's output) to that other; all other tensors are their own root.
    """

    graph: Graph
    layers: tuple[FusedLayer, ...]
    inputs: tuple[str, ...]
    host: tuple[Node, ...]
    views: dict[str, View]
    scale_root: dict[str, str]

    @property
    def roots(self) -> tuple[str, ...]:
        """Tensors whose ranges calibration must find, in order of definition."""
        return tuple(name for name, root in self.scale_root.items() if name == root)


def fuse(graph: Graph, parts: Partition) -> FusedGraph:
    """Form layers out of the machine's nodes.

    Raises
    ------
    UnsupportedModelError
        A model input has another type than float32, no batch axis, or another batch than the
        first input.
    """
    views: dict[str, View] = {}
    roots: dict[str, str] = {}
    for name in graph.inputs:
        views[name] = _input_view(graph, name)
        roots[name] = name
    clips = {
        node.inputs[0]: node for node in parts.machine if node.op == "Clip"
    }  # the rules grant: one clip, and no other reader
    layers: list[FusedLayer] = []
    for node in parts.machine:
        if node.op == "Flatten":
            source = views[node.inputs[0]]
            views[node.outputs[0]] = source
        elif node.op != "Clip":
            layer = _layer(node, clips.get(node.outputs[0]), graph)
            layers.append(layer)
            shape = graph.types[layer.output].shape
            views[layer.output] = _own_view(layer.output, shape)
            pool = node.op == "MaxPool"
            roots[layer.output] = roots[_tensor(views, layer.input)] if pool else layer.output
    return FusedGraph(
        graph=graph,
        layers=tuple(layers),
        inputs=graph.inputs,
        host=parts.host,
        views=views,
        scale_root=roots,
    )


def _tensor(views: dict[str, View], name: str) -> str:
    return views[name].tensor


def _own_view(name: str, shape: tuple[int, ...]) -> View:
    if len(shape) == 4:
        stored = tuple(shape[axis] for axis in TO_NHWC)
        return View(tensor=name, shape=stored, permutation=TO_NCHW)
    return View(tensor=name, shape=(shape[0], prod(shape[1:])), permutation=(0, 1))


def _input_view(graph: Graph, name: str) -> View:
    kind = graph.types[name]
    batch = graph.types[graph.inputs[0]].shape[:1]
    if kind.dtype != "float32" or len(kind.shape) < 2 or kind.shape[:1] != batch:
        raise UnsupportedModelError(
            f"input {name!r}: inputs must be float32 [N, ...] with one batch N for all, but this "
            f"one is {kind} and the first input's batch is {list(batch)}; export the model so"
        )
    return _own_view(name, kind.shape)


def _layer(node: Node, clip: Node | None, graph: Graph) -> FusedLayer:
    bounds = (-inf, inf)
    if clip is not None:
        found = clip_bounds(clip, graph)
        assert found is not None
        bounds = found
    return FusedLayer(
        node=node,
        input=node.inputs[0],
        output=clip.outputs[0] if clip else node.outputs[0],
        least=bounds[0],
        greatest=bounds[1],
        sources=(*node.sources, *(clip.sources if clip else ())),
    )
