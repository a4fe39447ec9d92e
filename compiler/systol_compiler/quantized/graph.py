"""The quantized graph: the contract between the quantizer and the lowering.

Layers in topological order over named integer tensors, with host layers anywhere. A *real* tensor
is one of the model's own (float32, token ids, images of bytes). Between the two there is one rule:
a quantized tensor that no machine layer writes is quantized from the real tensor that its `source`
names; a real tensor that neither the user nor a host layer gives is dequantized from the quantized
one whose `source` it is. The boundary formulas are those of docs/numerics.md, 8.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from systol_compiler.graph.float_graph import GraphOutput, TensorType
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.layer import Layer
from systol_compiler.text.arrays import Arrays
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import form_of
from systol_compiler.text.statement import wrapped
from systol_compiler.text.tokens import quote, reference
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class MachinePart:
    """A maximal run of machine layers: one program. `inputs` and `outputs` are quantized tensors
    that cross its border, in order of first use."""

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedGraph:
    """A whole quantized network.

    Attributes
    ----------
    inputs
        Names of real tensors that the user gives, in the model's order.
    outputs
        The model's outputs: their names, and the real tensors that hold them.
    real
        Types of all real tensors at a border.
    tensors
        Quantized tensors by name, constants included.
    constants
        Values of constant quantized tensors: int8 or int16.
    layers
        In topological order.
    notes
        What the quantizer has to say (warnings), for the report.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[GraphOutput, ...]
    real: Mapping[str, TensorType]
    tensors: Mapping[str, QTensor]
    constants: Mapping[str, Array]
    layers: tuple[Layer | HostLayer, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("real", "tensors", "constants"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def machine_layers(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, Layer))

    @property
    def host_layers(self) -> tuple[HostLayer, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, HostLayer))

    @cached_property
    def by_source(self) -> Mapping[str, QTensor]:
        """The quantized tensor that holds each of the model's tensors."""
        return {tensor.source: tensor for tensor in self.tensors.values() if tensor.source}

    @cached_property
    def parts(self) -> tuple["MachinePart | HostLayer", ...]:
        """Segments in order: machine layers between two host layers go together."""
        needed = self._needed_outside()
        parts: list[MachinePart | HostLayer] = []
        run: list[Layer] = []
        count = 0
        for layer in (*self.layers, None):
            if isinstance(layer, Layer):
                run.append(layer)
                continue
            if run:
                name = "machine" if count == 0 else f"machine.{count}"
                parts.append(self._part(name, run, needed))
                run, count = [], count + 1
            if layer is not None:
                parts.append(layer)
        return tuple(parts)

    def _needed_outside(self) -> set[str]:
        """Quantized tensors that the host must be able to read."""
        names = {output.tensor for output in self.outputs}
        for layer in self.host_layers:
            names.update(layer.inputs)
        given = set(self.inputs) | {name for layer in self.host_layers for name in layer.outputs}
        return {self.by_source[name].name for name in names - given}

    def _part(self, name: str, layers: Sequence[Layer], needed: set[str]) -> MachinePart:
        written = {tensor for layer in layers for tensor in layer.outputs}
        own = set(map(id, layers))
        later = {
            tensor
            for layer in self.machine_layers
            if id(layer) not in own
            for tensor in layer.inputs
        }
        read = dict.fromkeys(t for layer in layers for t in layer.inputs)
        return MachinePart(
            name=name,
            layers=tuple(layers),
            inputs=tuple(t for t in read if t not in written and t not in self.constants),
            outputs=tuple(
                t for layer in layers for t in layer.outputs if t in needed or t in later
            ),
        )

    def with_batch(self, images: int) -> "QuantizedGraph":
        """The same layers for `images` items: the first dimension of every tensor but constants.

        Only for graphs all of whose machine layers are independent of the batch (`batched`).
        """
        tensors = {
            name: tensor if name in self.constants
            else replace(tensor, shape=(images, *tensor.shape[1:]))
            for name, tensor in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    def verify(self) -> None:
        """Check every rule of this module and of each layer; raises what `Layer.verify` does."""
        defined = set(self.constants)
        real = set(self.inputs)
        written: set[str] = set()
        for layer in self.machine_layers:
            written.update(layer.outputs)
        for name, tensor in self.tensors.items():
            if name != tensor.name:
                raise InputError(f"tensor {tensor.name!r} is listed as {name!r}")
        names: set[str] = set()
        for item in self.layers:
            if item.name in names:
                raise InputError(f"layer {item.name!r}: two layers have this name")
            names.add(item.name)
            if isinstance(item, HostLayer):
                for name in item.inputs:
                    if name not in real and not self._on_machine(name, defined):
                        raise InputError(f"layer {item.name!r}: nothing gives {name!r} before it")
                real.update(item.outputs)
                continue
            for name in item.inputs:
                if name not in self.tensors:
                    raise InputError(f"layer {item.name!r}: nothing describes tensor {name!r}")
                source = self.tensors[name].source
                if name not in defined and (name in written or source not in real):
                    raise InputError(
                        f"layer {item.name!r}: reads {name!r}, which nothing before it gives"
                    )
            item.verify(self.tensors)
            for name in item.outputs:
                if name in defined:
                    raise InputError(f"layer {item.name!r}: {name!r} is written twice")
                defined.add(name)
        for output in self.outputs:
            if output.tensor not in real and not self._on_machine(output.tensor, defined):
                raise InputError(f"output {output.name!r}: nothing gives {output.tensor!r}")

    def _on_machine(self, real: str, defined: set[str]) -> bool:
        tensor = self.by_source.get(real)
        return tensor is not None and tensor.name in defined

    def text(self, arrays: Arrays | None = None) -> str:
        """The graph as text, which `levels.quantized.read_quantized` reads; `arrays` takes up the
        larger arrays, to which the text refers by digest."""
        return "\n".join(self._lines(Printer(arrays)))

    def _lines(self, printer: Printer) -> Iterator[str]:
        array = form_of(np.ndarray)
        yield f"quantized {quote(self.name)} {{"
        yield from (f"  note {quote(note)}" for note in self.notes)
        yield from (f"  input {reference(name)} : {self.real[name]}" for name in self.inputs)
        for name, kind in self.real.items():
            if name not in self.inputs:
                yield f"  real {reference(name)} : {kind}"
        written = {name for layer in self.machine_layers for name in layer.outputs}
        for name, tensor in self.tensors.items():
            if name in self.constants:
                yield f"  const {tensor} = {array.show(self.constants[name], printer)}"
            elif name not in written:
                yield f"  tensor {tensor}"
        for layer in self.layers:
            if isinstance(layer, HostLayer):
                yield wrapped(layer.text_parts(printer))
                continue
            kinds = ", ".join(self.tensors[name].kind for name in layer.outputs)
            yield wrapped([*layer.text_parts(printer), f": {kinds}"])
        for item in self.outputs:
            yield f"  output {quote(item.name)} = {reference(item.tensor)}"
        yield "}"

    def __str__(self) -> str:
        return self.text()
