"""Damages ONNX models in ways that keep them readable: what a careless or hostile author writes."""

import random
from collections.abc import Callable
from typing import Final

import onnx
from onnx import AttributeProto, TensorProto

NUMBERS: Final = (
    0, 1, -1, 2, 3, 7, -2, 100, 1000, -1000, 1 << 15, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 33,
    1 << 40, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63),
)  # fmt: skip
FLOATS: Final = (0.0, -1.0, 1.0, 1e30, -1e30, float("inf"), float("nan"), 1e-45, 0.5)
OPERATORS: Final = tuple(
    "Add Conv ConvTranspose Gemm MatMul MaxPool AveragePool Concat Split Slice Gather Reshape "
    "Transpose Flatten Squeeze Unsqueeze Pad Resize Softmax Clip Relu ReduceMean ReduceMax "
    "ArgMax BatchNormalization InstanceNormalization GroupNormalization LayerNormalization LRN "
    "Where Expand Tile Range ConstantOfShape Shape Cast Loop If Einsum DepthToSpace "
    "SpaceToDepth TopK NonZero OneHot Attention Dropout Identity LSTM PRelu Pow Mul Sub Div "
    "GatherND ScatterND Upsample RotaryEmbedding SequenceConstruct Scan CumSum LpNormalization "
    "GlobalAveragePool".split()
)


def mutated(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """A copy of `model` with one to four changes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(_CHANGES)(result, chance)
    return result


def _node(model: onnx.ModelProto, chance: random.Random) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = list(model.graph.node)
    return chance.choice(nodes)


def _attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    if not node.attribute:
        return
    item = chance.choice(list(node.attribute))
    if item.type == AttributeProto.INT:
        item.i = chance.choice(NUMBERS)
    elif item.type == AttributeProto.FLOAT:
        item.f = chance.choice(FLOATS)
    elif item.type == AttributeProto.INTS and item.ints:
        item.ints[chance.randrange(len(item.ints))] = chance.choice(NUMBERS)
    elif item.type == AttributeProto.STRING:
        item.s = chance.choice((b"", b"SAME_UPPER", b"linear", b"reflect", b"\xff", b"NOTSET"))


def _attribute_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    if not node.attribute:
        return
    position = chance.randrange(len(node.attribute))
    item = node.attribute[position]
    match chance.randrange(4):
        case 0:
            del node.attribute[position]
        case 1:
            item.ints.append(chance.choice(NUMBERS))
        case 2:
            if item.ints:
                del item.ints[-1]
        case _:
            item.type = chance.choice((1, 2, 3, 4, 5, 6, 7, 8, 0))


def _operator(model: onnx.ModelProto, chance: random.Random) -> None:
    _node(model, chance).op_type = chance.choice(OPERATORS)


def _wiring(model: onnx.ModelProto, chance: random.Random) -> None:
    node, other = _node(model, chance), _node(model, chance)
    names = [*other.output, *other.input, "", *(item.name for item in model.graph.initializer)]
    match chance.randrange(4):
        case 0:
            if node.input:
                node.input[chance.randrange(len(node.input))] = chance.choice(names)
        case 1:
            node.input.append(chance.choice(names))
        case 2:
            if node.input:
                del node.input[-1]
        case _:
            node.output.append(chance.choice(["", "extra", *other.output]))


def _initializer(model: onnx.ModelProto, chance: random.Random) -> None:
    if not model.graph.initializer:
        return
    item = chance.choice(list(model.graph.initializer))
    match chance.randrange(4):
        case 0:
            if item.dims:
                item.dims[chance.randrange(len(item.dims))] = chance.choice(NUMBERS)
        case 1:
            if item.data_type == TensorProto.INT64 and item.raw_data:
                values = [chance.choice(NUMBERS) for _ in range(len(item.raw_data) // 8)]
                item.raw_data = b"".join(
                    (value % (1 << 64)).to_bytes(8, "little") for value in values
                )
        case 2:
            item.data_type = chance.randrange(0, 25)
        case _:
            if len(item.dims) > 1:
                item.dims[:] = list(reversed(item.dims))


def _input(model: onnx.ModelProto, chance: random.Random) -> None:
    value = chance.choice(list(model.graph.input))
    kind = value.type.tensor_type
    match chance.randrange(3):
        case 0:
            if kind.shape.dim:
                chance.choice(list(kind.shape.dim)).dim_value = chance.choice(NUMBERS)
        case 1:
            kind.elem_type = chance.randrange(0, 25)
        case _:
            kind.shape.dim.add().dim_value = chance.choice((1, 2, 3))


def _structure(model: onnx.ModelProto, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            model.opset_import[0].version = chance.randrange(5, 30)
        case 1:
            del model.graph.node[chance.randrange(len(model.graph.node))]
        case 2:
            model.graph.node.append(_node(model, chance))
        case _:
            _node(model, chance).domain = chance.choice(("ai.onnx", "com.microsoft", "own"))
    if not model.graph.node:
        model.graph.node.add(op_type="Identity")


_CHANGES: Final[tuple[Callable[[onnx.ModelProto, random.Random], None], ...]] = (
    _attribute,
    _attribute,
    _attribute_shape,
    _operator,
    _wiring,
    _initializer,
    _input,
    _structure,
)
