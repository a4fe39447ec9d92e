"""Constant folding by ONNX's reference evaluator, with every result's size known beforehand."""

from math import prod
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from systol_compiler.graph.float_graph import Array, TensorType, wrap_nodes
from systol_hw.errors import InputError, UnsupportedModelError

MAX_ELEMENTS: Final = 1 << 28
"""Greatest number of elements of any tensor in a model."""

MAX_FOLDED: Final = 1 << 26
"""Greatest number of elements of all folded constants together: a small file could else ask for
any amount of memory."""

FOLDABLE: Final = frozenset(
    "Abs Add Cast Ceil Concat Constant ConstantOfShape Div Equal Exp Expand Flatten Floor Gather "
    "Identity MatMul Max Min Mul Neg Pow Range Reciprocal ReduceProd Reshape Shape Slice Split "
    "Sqrt Squeeze Sub Transpose Unsqueeze Where".split()
)
"""Operators that are evaluated when all of their inputs are known (Shape: always)."""


def tensor_value(tensor: onnx.TensorProto) -> Array:
    """The values of an initializer.

    Raises
    ------
    InputError
        The stored data does not fill the stated shape.
    """
    try:
        return np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # numpy and onnx raise several classes for damaged data
        raise InputError(
            f"tensor {tensor.name!r}: its data does not fit its stated shape "
            f"{list(tensor.dims)} ({' '.join(str(error).split())[:200]}); export the model again"
        ) from error


class ConstantFolder:
    """Evaluates nodes whose inputs are all constant; `constants` grows with the results."""

    def __init__(
        self, *, opset: int, constants: dict[str, Array], types: dict[str, TensorType]
    ) -> None:
        self.constants = constants
        self._opset = opset
        self._types = types
        self._room = MAX_FOLDED

    def fold(self, proto: onnx.NodeProto, name: str) -> bool:
        """Evaluate `proto` if possible; True if its outputs are constants now.

        Raises
        ------
        UnsupportedModelError
            The result's size is unknown or too large, so that it must not be computed.
        InputError
            The evaluator rejects the node.
        """
        if proto.op_type not in FOLDABLE:
            return False
        place = f"node {name!r} ({proto.op_type})"
        if proto.op_type == "Shape" and proto.input[0] in self._types:
            self.constants[proto.output[0]] = self._shape(proto)
            return True
        if any(used and used not in self.constants for used in proto.input):
            return False
        outputs = [output for output in proto.output if output]
        for output in outputs:
            kind = self._types.get(output)
            if kind is None or prod(kind.shape) > self._room:
                raise UnsupportedModelError(
                    f"{place}: computed constants must have known shapes and {MAX_FOLDED} elements "
                    f"at most together, but this one has {kind or 'none'}; store the value as an "
                    "initializer"
                )
            self._room -= prod(kind.shape)
        used = {key: self.constants[key] for key in proto.input if key}
        node = onnx.NodeProto()
        node.CopyFrom(proto)
        try:
            model = wrap_nodes(
                name="constant",
                opset=self._opset,
                nodes=[node],
                inputs={},
                outputs={output: self._types[output] for output in outputs},
                constants=used,
            )
            results = ReferenceEvaluator(model).run(outputs, {})
        except Exception as error:  # the evaluator raises whatever numpy does
            raise InputError(
                f"{place}: this constant cannot be evaluated "
                f"({' '.join(str(error).split())[:200]}); export the model again"
            ) from error
        for output, value in zip(outputs, results, strict=True):
            self.constants[output] = np.array(value)
        return True

    def _shape(self, proto: onnx.NodeProto) -> Array:
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        shape = self._types[proto.input[0]].shape
        return np.array(shape[attributes.get("start", 0) : attributes.get("end")], dtype=np.int64)
