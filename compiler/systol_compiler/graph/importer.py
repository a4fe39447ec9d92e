"""Reads an ONNX model from a stranger and gives a float graph, or one clear error.

Parsing, checking, shape inference and evaluation are the ONNX project's own. Every shape is made
concrete here and bounded before anything of that size is allocated.
"""

import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Final, TypeVar

import onnx
from onnx import external_data_helper, helper, shape_inference, version_converter

from systol_compiler.graph.float_graph import (
    OPSET,
    Graph,
    GraphOutput,
    Node,
    TensorType,
    dtype_name,
)
from systol_compiler.graph.folding import MAX_ELEMENTS, ConstantFolder, tensor_value
from systol_hw.errors import InputError, UnsupportedModelError

T = TypeVar("T")

OLDEST_OPSET: Final = 7
"""Older operator sets gave Gemm, BatchNormalization and Add other broadcasting rules."""

MAX_NODES: Final = 20_000

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto


def import_onnx(source: ModelSource, shapes: Mapping[str, int] | None = None) -> Graph:
    """Read an ONNX model.

    Parameters
    ----------
    source
        A file's path, a serialized ModelProto, or a ModelProto (not modified). External data is
        read only for a path, from that file's own folder.
    shapes
        Values for dynamic dimensions: by the name the model gives them, or as "INPUT.AXIS" where
        they have none.

    Returns
    -------
    Graph
        Constants folded, shapes concrete; operators not yet judged (`passes` and `rules` do).

    Raises
    ------
    InputError
        The file is missing or damaged, breaks a rule of ONNX, or leaves a dimension open.
    UnsupportedModelError
        The model uses an operator domain, type or feature that Systol does not read.
    """
    model = _load(source)
    if len(model.graph.node) > MAX_NODES:
        raise UnsupportedModelError(
            f"a model may have at most {MAX_NODES} nodes, but this one has "
            f"{len(model.graph.node)}; simplify it before export"
        )
    _check_order(model.graph)
    # Before the checker, so that it meets neither inner graphs nor tensors in other files.
    _check_features(model)
    _guard("the model breaks a rule of ONNX", lambda: onnx.checker.check_model(model))
    opset = _opset(model)
    _bind_shapes(model.graph, dict(shapes or {}))
    if opset < OPSET:
        model = _guard(
            f"the model's operator set {opset} cannot be converted to {OPSET}",
            lambda: version_converter.convert_version(model, OPSET),
            UnsupportedModelError,
        )
        opset = OPSET
    del model.graph.value_info[:]
    for value in model.graph.output:
        # Declared shapes may name dimensions that are bound by now; inference gives the real ones.
        value.type.tensor_type.ClearField("shape")
    inferred = _guard(
        "shape inference found a contradiction",
        lambda: shape_inference.infer_shapes(model, strict_mode=True, data_prop=True),
    )
    return _build(inferred.graph, opset)


def _load(source: ModelSource) -> onnx.ModelProto:
    folder: Path | None = None
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        if isinstance(source, bytes):
            data = source
        else:
            path = Path(source)
            folder = path.parent
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(
                    f"model file {str(path)!r} cannot be read ({error.strerror}); check the path"
                ) from error
        model = _guard(
            f"the model ({len(data)} bytes) is not an ONNX file, or a damaged one",
            lambda: onnx.load_model_from_string(data),
        )
    if not model.graph.node:
        raise InputError(
            "the model has no nodes: it is empty, or not an ONNX file; export it again"
        )
    tensors = [
        *model.graph.initializer,
        *(
            tensor
            for node in model.graph.node
            for attribute in node.attribute
            for tensor in (attribute.t, *attribute.tensors)
        ),
    ]
    external = [
        tensor.name for tensor in tensors if external_data_helper.uses_external_data(tensor)
    ]
    if external and folder is None:
        raise InputError(
            f"tensor {external[0]!r} is stored in an external file, which is only read for a "
            "model given by path; pass the path, or save the model in one file"
        )
    if external:
        _guard(
            f"external data of tensor {external[0]!r} (or a later one) cannot be read",
            lambda: external_data_helper.load_external_data_for_model(model, str(folder)),
        )
    return model


def _guard(
    what: str, action: Callable[[], T], kind: type[InputError | UnsupportedModelError] = InputError
) -> T:
    """Run a step of the ONNX libraries; whatever class they raise becomes one of ours."""
    try:
        return action()
    except Exception as error:  # protobuf, checker and inference each raise their own classes
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        raise kind(
            f"{what}: {detail}; export the model again and test it with onnx.checker.check_model"
        ) from error


def _check_order(graph: onnx.GraphProto) -> None:
    """Name a node that reads what is only defined later, which ONNX's checker tells at length."""
    writers = {name: node for node in graph.node for name in node.output}
    defined: set[str] = set()
    for node in graph.node:
        for name in node.input:
            if name in writers and name not in defined:
                raise InputError(
                    f"node {node.name!r} ({node.op_type}): nodes must be in topological order, but "
                    f"it reads {name!r}, which node {writers[name].name!r} "
                    f"({writers[name].op_type}) only defines at or after it; break the cycle, or "
                    "sort the nodes"
                )
        defined.update(node.output)


def _check_features(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedModelError(
                f"node {node.name!r} ({node.op_type}): operators must be of the default ONNX "
                f"domain, but this one is of {node.domain!r}; export without custom operators"
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise UnsupportedModelError(
                    f"node {node.name!r} ({node.op_type}): control flow with inner graphs is not "
                    f"supported, found attribute {attribute.name!r}; export a traced model"
                )
    if model.functions:
        raise UnsupportedModelError(
            f"model-local functions are not supported, found {model.functions[0].name!r}; inline "
            "them with onnx.inliner.inline_local_functions"
        )
    if model.graph.sparse_initializer:
        raise UnsupportedModelError(
            "sparse initializers are not supported, found "
            f"{model.graph.sparse_initializer[0].values.name!r}; store the tensor densely"
        )


def _opset(model: onnx.ModelProto) -> int:
    found = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if len(found) != 1 or not OLDEST_OPSET <= found[0] <= newest:
        raise UnsupportedModelError(
            f"the model must import one ONNX operator set between {OLDEST_OPSET} and {newest}, but "
            f"imports {found}; convert it with onnx.version_converter"
        )
    return found[0]


def _bind_shapes(graph: onnx.GraphProto, shapes: dict[str, int]) -> None:
    """Replace every dynamic dimension of the graph's inputs by its value, in place."""
    for key, size in shapes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"shape {key!r}: a dimension must be a positive integer, not {size!r}")
    constant = {tensor.name for tensor in graph.initializer}
    unused = set(shapes)
    for value in graph.input:
        if value.name in constant:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise UnsupportedModelError(
                f"input {value.name!r}: inputs must be tensors of known rank; declare its shape"
            )
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            keys = [f"{value.name}.{axis}", *([dim.dim_param] if dim.dim_param else [])]
            if dim.HasField("dim_value"):
                fixed = int(dim.dim_value)
                if fixed < 1 or shapes.get(keys[0], fixed) != fixed:
                    raise InputError(
                        f"input {value.name!r}, axis {axis}: the model fixes this dimension to "
                        f"{fixed}; it must be positive and cannot be bound to "
                        f"{shapes.get(keys[0])}; export it with a dynamic dimension"
                    )
                unused.discard(keys[0])
                continue
            given = [key for key in keys if key in shapes]
            if not given:
                raise InputError(
                    f"input {value.name!r}, axis {axis}: the dynamic dimension {keys[-1]!r} has no "
                    f"value; bind it, as in {keys[-1]}=1"
                )
            unused -= set(given)
            dim.dim_value = shapes[given[0]]
    if unused:
        raise InputError(
            f"shape {sorted(unused)[0]!r} names no dimension of the model's inputs; inputs are "
            f"{[value.name for value in graph.input if value.name not in constant]}"
        )


def _types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    """Types of all tensors whose shape inference made concrete."""
    types: dict[str, TensorType] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            continue
        if all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shape = tuple(int(dim.dim_value) for dim in kind.shape.dim)
            types[value.name] = TensorType(dtype=dtype_name(kind.elem_type), shape=shape)
    return types


def _build(graph: onnx.GraphProto, opset: int) -> Graph:
    types = _types(graph)
    constants = {tensor.name: tensor_value(tensor) for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    if not inputs:
        raise InputError("the model has no inputs besides its weights; export it with its input")
    folder = ConstantFolder(opset=opset, constants=constants, types=types)
    nodes: list[Node] = []
    names: set[str] = set()
    for index, proto in enumerate(graph.node):
        name = _unique(proto.name or f"{proto.op_type}_{index}", names)
        if folder.fold(proto, name):
            continue
        node = Node(
            name=name,
            op=proto.op_type,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={a.name: _attribute(a) for a in proto.attribute},
            sources=(name,),
        )
        nodes.append(node)
        for output in filter(None, node.outputs):
            if output not in types:
                raise UnsupportedModelError(
                    f"{node.place}: the shape of its output {output!r} must follow from the "
                    "model's input shapes, but does not; replace computed shapes by constants"
                )
            _check_size(types[output], f"{node.place}, output {output!r}")
    for name in inputs:
        _check_size(types[name], f"input {name!r}")
    for name, value in folder.constants.items():
        types[name] = TensorType(dtype=str(value.dtype), shape=value.shape)
    result = Graph(
        name=graph.name,
        opset=opset,
        inputs=inputs,
        outputs=tuple(GraphOutput(name=v.name, tensor=v.name) for v in graph.output),
        nodes=tuple(nodes),
        constants=folder.constants,
        types=types,
    )
    result.verify()
    return result


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _unique(wish: str, taken: set[str]) -> str:
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}.{count}"
    taken.add(name)
    return name


def _check_size(kind: TensorType, place: str) -> None:
    if min(kind.shape, default=1) < 1 or prod(kind.shape) > MAX_ELEMENTS:
        raise UnsupportedModelError(
            f"{place}: a tensor must have between 1 and {MAX_ELEMENTS} elements, but its shape is "
            f"{list(kind.shape)}; bind smaller dimensions"
        )
