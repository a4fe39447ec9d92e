"""Reads an ONNX model from a stranger and gives a float graph, or one clear error.

Checking, shape inference and evaluation are the ONNX project's own, node by node. Every shape is
made concrete here and bounded before anything of that size is allocated.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from systol_compiler.graph.float_graph import (
    OPSET,
    Graph,
    GraphOutput,
    TensorType,
    dtype_name,
)
from systol_compiler.graph.inference import FLOATS, size_of
from systol_compiler.graph.reading.model_file import ModelFile, ModelSource, open_model
from systol_compiler.graph.reading.reader import Reader
from systol_compiler.graph.tracing.blockers import Blockers
from systol_compiler.graph.tracing.scope import Scope, require_text
from systol_compiler.graph.tracing.tensors import MAX_ELEMENTS, MAX_RANK
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError, UnsupportedModelError
from systol_hw.nearest import did_you_mean

__all__ = ["MAX_NODES", "OLDEST_OPSET", "ModelSource", "import_onnx"]

OLDEST_OPSET: Final = 7
"""Older operator sets gave Gemm, BatchNormalization and Add other broadcasting rules."""

MAX_NODES: Final = 20_000

_MOST_UNBOUND: Final = 20
"""Dimensions that a message names."""


def import_onnx(
    source: ModelSource, shapes: Mapping[str, int] | None = None, *, batch: int | None = None
) -> Graph:
    """Read an ONNX model.

    Parameters
    ----------
    source
        A file's path, a serialized ModelProto, or a ModelProto (not modified). External data is
        read only for a path, from that file's own folder. A file is mapped, not copied: it must
        stay as it is while the graph is used.
    shapes
        Values for dynamic dimensions: by the name the model gives them, or as "INPUT.AXIS" where
        they have none.
    batch
        Value of inputs' first dimension where the model leaves it open and `shapes` does not say.

    Returns
    -------
    Graph
        Of operator set `OPSET`: constants folded, shapes concrete, floats of any width float32
        (inputs keep their declared type behind a Cast), functions, branches and loops written
        out; operators not yet judged.

    Raises
    ------
    InputError
        The file is missing or damaged, breaks a rule of ONNX, or leaves a dimension open.
    UnsupportedModelError
        The model uses operators, types or features that Systol does not read: all of them are
        listed.
    """
    file = open_model(source)
    model = file.model
    if len(model.graph.node) > MAX_NODES:
        raise UnsupportedModelError(
            f"a model may have at most {MAX_NODES} nodes, but this one has "
            f"{len(model.graph.node)}; simplify it before export"
        )
    if model.graph.sparse_initializer:
        raise UnsupportedModelError(
            "sparse initializers are not supported, found "
            f"{model.graph.sparse_initializer[0].values.name!r}; store the tensor densely"
        )
    require_text("the model", model.graph.name, *file.weights)
    require_text("the model", *(item.name for item in (*model.graph.input, *model.graph.output)))
    opsets = _opsets(model)
    bound = {**_open_batches(model.graph, set(file.weights), batch), **(shapes or {})}
    inputs = _inputs(model.graph, set(file.weights), bound)
    return _read(file, opsets, inputs)


def _read(file: ModelFile, opsets: dict[str, int], inputs: dict[str, TensorType]) -> Graph:
    graph = file.model.graph
    blockers = Blockers()
    trace = Trace(model_bytes=file.size, blockers=blockers)
    scope = Scope(opsets=opsets)
    for name, value in file.weights.items():
        scope.names[name] = trace.tensor_names.take(name)
        trace.define(scope.names[name], value)
    for name, kind in inputs.items():
        scope.names[name] = trace.tensor_names.take(name)
        trace.types[name] = kind
    for name, kind in inputs.items():
        if kind.dtype in FLOATS and kind.dtype != "float32":
            scope.names[name] = trace.tensor_names.take(f"{name}.float32")
            trace.emit(
                Call(
                    op="Cast",
                    inputs=(name,),
                    outputs=(scope.names[name],),
                    attributes={"to": int(TensorProto.FLOAT)},
                    name=f"{name}.cast",
                    source=f"{name}.cast",
                    source_op="Cast",
                )
            )
    Reader(trace, file.model.functions, file.model.ir_version).read_nodes(graph.node, scope)
    outputs = _outputs(graph, scope, trace.types)
    blockers.check()
    used = {name for node in trace.nodes for name in node.inputs}
    used |= {result.tensor for result in outputs}
    constants = trace.finished_constants(used)
    types = {
        name: trace.types[name]
        for node in trace.nodes
        for name in (*node.inputs, *node.outputs)
        if name
    }
    types |= {name: trace.types[name] for name in inputs}
    for name, value in constants.items():
        types[name] = TensorType(dtype=str(value.dtype), shape=value.shape)
    result = Graph(
        name=graph.name,
        opset=OPSET,
        inputs=tuple(inputs),
        outputs=outputs,
        nodes=tuple(trace.nodes),
        constants=constants,
        types=types,
    )
    result.verify()
    return result


def _outputs(
    graph: onnx.GraphProto, scope: Scope, types: Mapping[str, TensorType]
) -> tuple[GraphOutput, ...]:
    if not graph.output:
        raise InputError("the model has no outputs; export it with what it computes")
    outputs: dict[str, GraphOutput] = {}
    for value in graph.output:
        tensor = scope.find(value.name)
        if value.name in outputs:
            raise InputError(
                f"output {value.name!r} is listed twice; name each output of the model once"
            )
        if tensor is None:
            raise InputError(
                f"output {value.name!r}: tensor {value.name!r} is defined nowhere; connect it to "
                "a node"
            )
        if tensor in types and not size_of(types[tensor]):
            raise UnsupportedModelError(
                f"output {value.name!r}: an output must have elements, but its shape is "
                f"{list(types[tensor].shape)}; remove it"
            )
        outputs[value.name] = GraphOutput(name=value.name, tensor=tensor)
    return tuple(outputs.values())


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Operator sets by domain; the default one stands under ""."""
    found: dict[str, int] = {}
    defaults = []
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            defaults.append(int(entry.version))
        found["" if entry.domain == "ai.onnx" else entry.domain] = int(entry.version)
    newest = onnx.defs.onnx_opset_version()
    if len(set(defaults)) != 1 or not OLDEST_OPSET <= defaults[0] <= newest:
        raise UnsupportedModelError(
            f"the model must import one ONNX operator set between {OLDEST_OPSET} and {newest}, but "
            f"imports {defaults}; convert it with onnx.version_converter"
        )
    return found


def _open_batches(graph: onnx.GraphProto, constant: set[str], batch: int | None) -> dict[str, int]:
    """Bindings for the open first dimensions of the graph's inputs."""
    bound: dict[str, int] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if batch is not None and value.name not in constant and dims:
            if not dims[0].HasField("dim_value"):
                bound[dims[0].dim_param or f"{value.name}.0"] = batch
    return bound


def _inputs(
    graph: onnx.GraphProto, constant: set[str], shapes: dict[str, int]
) -> dict[str, TensorType]:
    """Types of the graph's inputs, every dynamic dimension replaced by its value."""
    for key, size in shapes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"shape {key!r}: a dimension must be a positive integer, not {size!r}")
    unused = set(shapes)
    found: dict[str, TensorType] = {}
    unbound: dict[str, str] = {}
    dynamic: dict[str, None] = {}
    for value in graph.input:
        if value.name in constant:
            continue
        kind = value.type.tensor_type
        if value.name in found:
            raise InputError(f"input {value.name!r} is listed twice; name each input once")
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise UnsupportedModelError(
                f"input {value.name!r}: inputs must be tensors of known rank; declare its shape"
            )
        dims = []
        for axis, dim in enumerate(kind.shape.dim):
            require_text(f"input {value.name!r}", dim.dim_param)
            keys = [f"{value.name}.{axis}", *([dim.dim_param] if dim.dim_param else [])]
            if dim.HasField("dim_value"):
                fixed = int(dim.dim_value)
                place = f"input {value.name!r}, axis {axis}: the model fixes this dimension to"
                if fixed < 1:
                    raise InputError(
                        f"{place} {fixed}, but it must be positive; export it with a dynamic "
                        "dimension"
                    )
                if shapes.get(keys[0], fixed) != fixed:
                    raise InputError(
                        f"{place} {fixed}, and it cannot be bound to {shapes[keys[0]]}; export it "
                        "with a dynamic dimension"
                    )
                unused.discard(keys[0])
                dims.append(fixed)
                continue
            dynamic.setdefault(keys[-1])
            given = [key for key in keys if key in shapes]
            if not given:
                unbound.setdefault(keys[-1], f"input {value.name!r}, axis {axis}")
                dims.append(1)
                continue
            unused -= set(given)
            dims.append(shapes[given[0]])
        found[value.name] = _input_type(value.name, kind.elem_type, tuple(dims))
    if unbound:
        raise _without_value(unbound)
    if unused:
        raise InputError(
            f"shape {sorted(unused)[0]!r} names no dimension of the model's inputs"
            f"{did_you_mean(sorted(unused)[0], dynamic)}; inputs are {list(found)}, and their "
            f"dynamic dimensions {list(dynamic)[:_MOST_UNBOUND] or 'none'}"
        )
    if not found:
        raise InputError("the model has no inputs besides its weights; export it with its input")
    return found


def _without_value(unbound: Mapping[str, str]) -> InputError:
    """All dynamic dimensions that nothing binds, each with its first place."""
    (first, place), *others = list(unbound.items())[:_MOST_UNBOUND]
    text = f"{place}: the dynamic dimension {first!r} has no value"
    for key, place in others:
        text += f", and neither has {key!r} ({place})"
    keys = [first, *(key for key, _ in others)]
    which = "it" if len(keys) == 1 else "them"
    return InputError(f"{text}; bind {which}, as in {' '.join(f'{key}=1' for key in keys)}")


def _input_type(name: str, element: int, shape: tuple[int, ...]) -> TensorType:
    kind = TensorType(dtype=dtype_name(element), shape=shape)
    try:
        numeric = element != TensorProto.STRING and np.dtype(kind.dtype) is not None
    except TypeError:
        numeric = False
    if not numeric:
        raise UnsupportedModelError(
            f"input {name!r}: elements must be numbers, but are of type {kind.dtype}; convert "
            "them outside the model"
        )
    if size_of(kind) > MAX_ELEMENTS or len(shape) > MAX_RANK:
        raise UnsupportedModelError(
            f"input {name!r}: a tensor must have between 1 and {MAX_ELEMENTS} elements and "
            f"{MAX_RANK} axes at most, but its shape is {str(list(shape))[:200]}; bind smaller "
            "dimensions"
        )
    return kind
