"""How layers write themselves as QDQ ONNX: the interface; `calibrate.qdq_export` has it."""

from collections.abc import Sequence
from typing import Any, Protocol

from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor


class QdqExporter(Protocol):
    """Collects an ONNX graph of float operators between QuantizeLinear and DequantizeLinear."""

    def tensor(self, name: str) -> QTensor:
        """The description of a quantized tensor."""
        ...

    def real(self, tensor: str) -> str:
        """The float32 value that holds the quantized tensor `tensor` (or constant), dequantized."""
        ...

    def weights(self, name: str, codes: Array, scales: Array, axis: int) -> str:
        """The float32 value of int8 (or int32) `codes` behind a DequantizeLinear: scale by index
        along `axis`, zero point 0."""
        ...

    def constant(self, values: Array) -> str:
        """The name of an initializer of `values`."""
        ...

    def node(
        self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Append a node of the default domain; its results' names."""
        ...

    def result(
        self, tensor: str, value: str, lo: int | None = None, hi: int | None = None
    ) -> None:
        """Let the quantized tensor `tensor` hold the float value `value`, quantized; clipped (by a
        Clip before QuantizeLinear) to what its codes `lo..hi` stand for, if these are not all."""
        ...
