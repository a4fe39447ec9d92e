"""Constant folding in bounded work: what a result costs is known before it is computed."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from systol_compiler.graph import constant_ops
from systol_compiler.graph.float_graph import Array, TensorType
from systol_compiler.graph.inference import FLOATS, onnx_proto, schema_version, size_of
from systol_hw.errors import InputError, UnsupportedModelError

LEAST_ROOM: Final = 1 << 27
"""Bytes that the folded constants of any model may take together; large models may use as much
as they bring themselves: a small file could else ask for any amount of memory."""

MAX_VIEWED: Final = 1 << 28
"""Elements that constants which are one repeated value may have together."""

MAX_WORK: Final = 1 << 30
"""Operations that folding may take together, beyond a share for each byte of the model."""

FOLDABLE: Final = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Cast Ceil "
    "Celu Clip Concat ConstantOfShape Conv Cos Cosh CumSum DepthToSpace Div Einsum Elu Equal "
    "Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater "
    "GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu "
    "Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod Mul Neg NonZero Not OneHot "
    "Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax "
    "Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile "
    "TopK Transpose Trilu Unsqueeze Where Xor".split()
)
"""Operators that are evaluated when all of their inputs are known. QuantizeLinear and its inverse
are none of them: an imported quantized model keeps its integers."""


class ConstantFolder:
    """Evaluates operators on constants, within budgets that grow with the model's own size."""

    def __init__(self, model_bytes: int) -> None:
        self._room = LEAST_ROOM + 4 * model_bytes
        self._work = MAX_WORK + 32 * model_bytes
        self._viewed = MAX_VIEWED

    def evaluate(
        self,
        place: str,
        op: str,
        inputs: Sequence[Array | None],
        outputs: Sequence[TensorType | None],
        attributes: Mapping[str, Any],
    ) -> list[Array] | None:
        """The results of one operator, or None if it is none that is folded.

        `outputs` are the results' types as inference gave them.

        Raises
        ------
        UnsupportedModelError
            A result's size is unknown or too large, so that it must not be computed.
        InputError
            The evaluator rejects the operands.
        """
        if op not in FOLDABLE:
            return None
        self._charge(place, op, inputs, outputs, attributes)
        try:
            single = constant_ops.evaluate(op, inputs, attributes)
            if single is not None:
                results = [single]
            else:
                results = _by_reference(op, inputs, outputs, attributes)
        except MemoryError as error:
            raise UnsupportedModelError(
                f"{place}: this constant needs more memory than there is; store the value as an "
                "initializer"
            ) from error
        except Exception as error:  # the evaluators raise whatever numpy does
            raise InputError(
                f"{place}: this constant cannot be evaluated "
                f"({' '.join(str(error).split())[:200]}); export the model again"
            ) from error
        for kind, value in zip(outputs, results, strict=True):
            if kind is not None and value.shape != kind.shape:
                raise InputError(
                    f"{place}: a constant must have the shape {list(kind.shape)} that follows from "
                    f"its inputs, but evaluates to {list(value.shape)}; export the model again"
                )
        return results

    def _charge(
        self,
        place: str,
        op: str,
        inputs: Sequence[Array | None],
        outputs: Sequence[TensorType | None],
        attributes: Mapping[str, Any],
    ) -> None:
        """Take the operator's cost off the budgets, before anything is computed."""
        present = [value for value in inputs if value is not None]
        read = sum(value.size for value in present)
        written, room = 0, 0
        for kind in outputs:
            if kind is None and op == "NonZero":
                written, room = read * max(present[0].ndim, 1), 8 * read * max(present[0].ndim, 1)
                continue
            if kind is None:
                raise UnsupportedModelError(
                    f"{place}: computed constants must have sizes that follow from the model's "
                    "inputs, but this one's does not; store the value as an initializer"
                )
            written += size_of(kind)
            room += size_of(kind) * np.dtype(kind.dtype).itemsize
        if op in constant_ops.VIEWS:
            self._viewed -= written
            room, work = 0, 1
        else:
            work = _work(op, present, read, written, attributes)
        self._room -= room
        self._work -= work
        if self._room < 0 or self._viewed < 0:
            raise UnsupportedModelError(
                f"{place}: computed constants may have {LEAST_ROOM} bytes together, and four times "
                f"the model's own size, but this one of {written} elements exceeds that; store "
                "the value as an initializer"
            )
        if self._work < 0:
            raise UnsupportedModelError(
                f"{place}: computed constants may take {MAX_WORK} operations together, and 32 for "
                "each byte of the model, but this one exceeds that; store the value as an "
                "initializer"
            )


def _work(
    op: str, inputs: Sequence[Array], read: int, written: int, attributes: Mapping[str, Any]
) -> int:
    """An upper bound of the operations, each of about a nanosecond."""
    whole = any(value.dtype.kind != "f" for value in inputs)
    work: int
    match op:
        case "MatMul" | "Gemm" | "Einsum":
            # Einsum: never more than the product of its operands' sizes.
            if op == "Einsum" or any(value.ndim == 0 for value in inputs[:2]):
                work = prod(value.size for value in inputs)
            else:
                work = written * int(inputs[0].shape[-1])
                if op == "Gemm" and attributes.get("transA", 0):
                    work = written * int(inputs[0].shape[0])
            return work * (16 if whole else 1)
        case "Conv":
            return 512 * written * (int(inputs[1].size) // max(int(inputs[1].shape[0]), 1))
        case "Resize":
            return 20_000 * written
        case "TopK":
            return 64 * read
        case _:
            return 8 * (read + written)


def _by_reference(
    op: str,
    inputs: Sequence[Array | None],
    outputs: Sequence[TensorType | None],
    attributes: Mapping[str, Any],
) -> list[Array]:
    """The results of ONNX's own reference evaluator."""
    names = tuple("" if value is None else f"i{index}" for index, value in enumerate(inputs))
    results = tuple(f"o{index}" for index in range(len(outputs)))
    graph = helper.make_graph(
        [onnx_proto(op, names, results, attributes)],
        "constant",
        [],
        [helper.make_tensor_value_info(name, 0, None) for name in results],
        [
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in zip(names, inputs, strict=True)
            if value is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", schema_version(op))])
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(list(results), {})
    return [_plain(np.asarray(value)) for value in found]


def _plain(value: Array) -> Array:
    """bfloat16, which numpy has not, as float32."""
    wide = value.dtype.name in FLOATS and value.dtype.kind != "f"
    return value.astype(np.float32) if wide else value
