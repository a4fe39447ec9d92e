"""Draws float ONNX networks with branches and joins, of ordinary operators in any order."""

import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

Array = npt.NDArray[Any]

OPSET: Final = 17
MOST_ELEMENTS: Final = 6000


class ModelDraw:
    """One network under construction; every tensor so far may be read again."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: list[str] = []
        self._count = 0

    def constant(self, value: Any) -> str:
        """A new initializer."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def floats(self, *shape: int, around: float = 0.0) -> str:
        """An initializer of normal values, small where many are summed."""
        scale = max(int(np.prod(shape[1:])), 1) ** -0.5 if len(shape) > 1 else 0.5
        values = self.rng.normal(size=shape) * scale + around
        return self.constant(values.astype(np.float32))

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node if its results are of a reasonable size; their names, or []."""
        names = [f"t{self._count + i}" for i in range(outputs)]
        node = helper.make_node(op, inputs, names, **attributes)
        types, data = {}, {}
        for name in filter(None, inputs):
            value = self.weights.get(name)
            shape = self.shapes[name] if value is None else value.shape
            kind = TensorProto.FLOAT
            if value is not None and value.dtype == np.int64:
                kind = TensorProto.INT64
            if value is not None:
                data[name] = numpy_helper.from_array(value, name)
            types[name] = helper.make_tensor_type_proto(kind, shape)
        found = shape_inference.infer_node_outputs(
            defs.get_schema(op, OPSET, ""),
            node,
            types,
            data,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
        )
        shapes = [
            tuple(dim.dim_value for dim in found[name].tensor_type.shape.dim) for name in names
        ]
        if any(min(s, default=1) < 1 or np.prod(s) > MOST_ELEMENTS for s in shapes):
            return []
        self._count += outputs
        self.nodes.append(node)
        self.shapes.update(zip(names, shapes, strict=True))
        return names


def _image(draw: ModelDraw, x: str) -> bool:
    return len(draw.shapes[x]) == 4


def _conv(draw: ModelDraw, x: str) -> None:
    if not _image(draw, x):
        return
    channels, (h, w) = draw.shapes[x][1], draw.shapes[x][2:]
    group = draw.chance.choice([1, 1, channels])
    outputs = draw.chance.choice([1, 2]) * group if group > 1 else draw.chance.randint(1, 6)
    kernel = [draw.chance.randint(1, min(3, size)) for size in (h, w)]
    pads = draw.chance.choice([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
    weight = draw.floats(outputs, channels // group, *kernel)
    bias = [draw.floats(outputs)] if draw.chance.random() < 0.5 else []
    strides = draw.chance.choice([[1, 1], [2, 2], [1, 2]])
    draw.add("Conv", [x, weight, *bias], group=group, pads=pads, strides=strides)


def _norm(draw: ModelDraw, x: str) -> None:
    if len(draw.shapes[x]) < 2:
        return
    channels = draw.shapes[x][1]
    positive = draw.constant(draw.rng.uniform(0.5, 2, channels).astype(np.float32))
    scale, bias, mean = (draw.floats(channels, around=a) for a in (1.0, 0.0, 0.0))
    draw.add("BatchNormalization", [x, scale, bias, mean, positive])


def _activation(draw: ModelDraw, x: str) -> None:
    op = draw.chance.choice(["Relu", "Sigmoid", "Tanh", "HardSwish", "Elu", "LeakyRelu", "Abs"])
    draw.add(op, [x])


def _clip(draw: ModelDraw, x: str) -> None:
    low, high = draw.constant(np.float32(-0.5)), draw.constant(np.float32(0.8))
    draw.add("Clip", [x, draw.chance.choice([low, ""]), high])


def _gate(draw: ModelDraw, x: str) -> None:
    """An activation by its formula."""
    match draw.chance.randrange(3):
        case 0:
            (gate,) = draw.add("Sigmoid", [x])
            draw.add("Mul", draw.chance.sample([x, gate], 2))
        case 1:
            (inner,) = draw.add("Mul", [x, draw.constant(np.float32(2**-0.5))])
            (erf,) = draw.add("Erf", [inner])
            (one,) = draw.add("Add", [erf, draw.constant(np.float32(1))])
            (half,) = draw.add("Mul", [x, draw.constant(np.float32(0.5))])
            draw.add("Mul", [half, one])
        case _:
            (plus,) = draw.add("Softplus", [x])
            (tanh,) = draw.add("Tanh", [plus])
            draw.add("Mul", [tanh, x])


def _with_constant(draw: ModelDraw, x: str) -> None:
    shape = draw.shapes[x]
    forms = [(), (1,), shape[-1:], tuple(s if i == 1 else 1 for i, s in enumerate(shape)), shape]
    op = draw.chance.choice(["Add", "Sub", "Mul", "Div", "Max", "Min"])
    value = draw.floats(*draw.chance.choice(forms), around=1.5 if op == "Div" else 0.3)
    operands = [x, value]
    if op != "Div" and draw.chance.random() < 0.4:
        operands.reverse()
    draw.add(op, operands)


def _join(draw: ModelDraw, x: str) -> None:
    same = [name for name in draw.shapes if draw.shapes[name] == draw.shapes[x]]
    other = draw.chance.choice(same)
    draw.add(draw.chance.choice(["Add", "Sub", "Mul", "Max", "Sum"]), [x, other])


def _concat(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if not rank:
        return
    axis = draw.chance.randrange(rank)
    fits = [
        name
        for name, shape in draw.shapes.items()
        if len(shape) == rank
        and shape[:axis] == draw.shapes[x][:axis]
        and shape[axis + 1 :] == draw.shapes[x][axis + 1 :]
    ]
    draw.add("Concat", [x, draw.chance.choice(fits)], axis=axis)


def _split(draw: ModelDraw, x: str) -> None:
    axes = [axis for axis, size in enumerate(draw.shapes[x]) if size > 1]
    if axes:
        axis = draw.chance.choice(axes)
        first = draw.chance.randint(1, draw.shapes[x][axis] - 1)
        sizes = draw.constant(np.array([first, draw.shapes[x][axis] - first]))
        draw.add("Split", [x, sizes], outputs=2, axis=axis)


def _slice(draw: ModelDraw, x: str) -> None:
    axes = [axis for axis, size in enumerate(draw.shapes[x]) if size > 1]
    if axes:
        axis, step = draw.chance.choice(axes), draw.chance.choice([1, 1, 2, -1])
        start, end = (0, 1 << 40) if step > 0 else (-1, -(1 << 40))
        start += draw.chance.choice([0, step])
        parts = [draw.constant(np.array([value])) for value in (start, end, axis, step)]
        draw.add("Slice", [x, *parts])


def _transpose(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    perm = draw.chance.sample(range(rank), rank)
    if rank == 4 and draw.chance.random() < 0.6:
        perm = draw.chance.choice([[0, 2, 3, 1], [0, 3, 1, 2]])
    if rank:
        draw.add("Transpose", [x], perm=perm)


def _reshape(draw: ModelDraw, x: str) -> None:
    shape = list(draw.shapes[x])
    match draw.chance.randrange(4):
        case 0:
            draw.add("Flatten", [x], axis=draw.chance.randint(0, len(shape)))
        case 1:
            axis = draw.chance.randint(0, len(shape))
            draw.add("Unsqueeze", [x, draw.constant(np.array([axis]))])
        case 2:
            if len(shape) > 2:
                merged = [shape[0], shape[1] * shape[2], *shape[3:]]
                draw.add("Reshape", [x, draw.constant(np.array(merged))])
        case _:
            if shape and shape[-1] % 2 == 0 and len(shape) < 5:
                spread = [*shape[:-1], 2, shape[-1] // 2]
                draw.add("Reshape", [x, draw.constant(np.array(spread))])


def _pool(draw: ModelDraw, x: str) -> None:
    if not _image(draw, x):
        return
    if min(draw.shapes[x][2:]) < 2 or draw.chance.random() < 0.2:
        draw.add(draw.chance.choice(["GlobalAveragePool", "GlobalMaxPool"]), [x])
        return
    op = draw.chance.choice(["MaxPool", "AveragePool"])
    pads = draw.chance.choice([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]])
    extra = {"count_include_pad": draw.chance.randrange(2)} if op == "AveragePool" else {}
    draw.add(op, [x], kernel_shape=[2, 2], strides=draw.chance.choice([[1, 1], [2, 2]]),
             pads=pads, **extra)  # fmt: skip


def _pad(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if not rank:
        return
    pads = [draw.chance.choice([0, 0, 1]) for _ in range(2 * rank)]
    if draw.chance.random() < 0.7 and rank == 4:
        pads[0] = pads[1] = pads[4] = pads[5] = 0
    value = draw.constant(np.float32(draw.chance.choice([0.0, 0.0, 0.5])))
    draw.add("Pad", [x, draw.constant(np.array(pads, dtype=np.int64)), value])


def _product(draw: ModelDraw, x: str) -> None:
    shape = draw.shapes[x]
    if len(shape) < 2:
        return
    (result,) = draw.add("MatMul", [x, draw.floats(shape[-1], draw.chance.randint(1, 6))]) or [""]
    if result and draw.chance.random() < 0.6:
        draw.add("Add", [result, draw.floats(draw.shapes[result][-1])])


def _gemm(draw: ModelDraw, x: str) -> None:
    shape = draw.shapes[x]
    if len(shape) == 2:
        outputs = draw.chance.randint(1, 6)
        bias = draw.chance.choice([[], [draw.floats(outputs)], [draw.floats(shape[0], 1)]])
        alpha = draw.chance.choice([1.0, 0.5])
        draw.add("Gemm", [x, draw.floats(outputs, shape[1]), *bias], transB=1, alpha=alpha)


def _attention(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if rank >= 2:
        perm = [*range(rank - 2), rank - 1, rank - 2]
        (scaled,) = draw.add("Mul", [x, draw.constant(np.float32(0.3))])
        (turned,) = draw.add("Transpose", [scaled], perm=perm)
        (scores,) = draw.add("MatMul", [scaled, turned]) or [""]
        if scores:
            (gates,) = draw.add("Softmax", [scores], axis=-1)
            draw.add("MatMul", [gates, x])


def _layer_norm(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if not rank or draw.shapes[x][-1] < 2:
        return
    axes = draw.chance.choice([[-1], [1] if rank > 1 else [-1], [2, 3] if rank == 4 else [-1]])
    (mean,) = draw.add("ReduceMean", [x], axes=axes)
    (centre,) = draw.add("Sub", [x, mean])
    (square,) = draw.add("Pow", [centre, draw.constant(np.float32(2))])
    (variance,) = draw.add("ReduceMean", [square], axes=axes)
    (shifted,) = draw.add("Add", [variance, draw.constant(np.float32(1e-3))])
    (root,) = draw.add("Sqrt", [shifted])
    (normal,) = draw.add("Div", [centre, root])
    if draw.chance.random() < 0.6:
        (scaled,) = draw.add("Mul", [normal, draw.floats(draw.shapes[x][-1], around=1.0)])
        draw.add("Add", [scaled, draw.floats(draw.shapes[x][-1])])


def _reduce(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if rank:
        axes = draw.chance.sample(range(rank), draw.chance.randint(1, rank))
        op = draw.chance.choice(["ReduceMean", "ReduceMax", "ReduceMin"])
        draw.add(op, [x], axes=axes, keepdims=draw.chance.randrange(2))


def _softmax(draw: ModelDraw, x: str) -> None:
    rank = len(draw.shapes[x])
    if rank:
        draw.add("Softmax", [x], axis=draw.chance.randrange(-rank, rank))


STEPS: Final[tuple[Callable[[ModelDraw, str], None], ...]] = (
    _conv, _conv, _conv, _norm, _norm, _activation, _activation, _clip, _gate, _with_constant,
    _with_constant, _join, _concat, _split, _slice, _transpose, _transpose, _reshape, _pool, _pad,
    _product, _gemm, _attention, _layer_norm, _reduce, _softmax,
)  # fmt: skip


def random_model(seed: int) -> onnx.ModelProto:
    """A network of up to 25 steps whose ends are all outputs."""
    draw = ModelDraw(seed)
    shapes = draw.chance.sample([(1, 3, 8, 8), (2, 4, 6, 5), (1, 6, 8), (3, 8)], 2)
    for index, shape in enumerate(shapes[: draw.chance.choice([1, 1, 2])]):
        draw.inputs.append(f"x{index}")
        draw.shapes[f"x{index}"] = shape
    for _ in range(draw.chance.randint(3, 25)):
        names = list(draw.shapes)
        # The latest tensors most of all, so that chains grow.
        x = draw.chance.choice(names[-3:] if draw.chance.random() < 0.8 else names)
        draw.chance.choice(STEPS)(draw, x)
    if not draw.nodes:
        draw.add("Relu", [draw.inputs[0]])
    read = {name for node in draw.nodes for name in node.input}
    ends = [name for node in draw.nodes for name in node.output if name not in read]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        draw.nodes,
        f"random {seed}",
        [info(name, TensorProto.FLOAT, draw.shapes[name]) for name in draw.inputs],
        [info(name, TensorProto.FLOAT, draw.shapes[name]) for name in ends],
        [numpy_helper.from_array(value, name) for name, value in draw.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
