"""The parts of a compiled model, and how they hang together; nothing is checked here.

Segments run in order. Between them lie two kinds of tensors, by name: *quantized* ones, which
machine segments read and write in their windows, and *real* ones of the model's own types, which
the user and host segments give and read. Two rules join them:

- a quantized tensor that no machine segment writes is quantized from the real tensor that its
  `source` names;
- a real tensor that neither the user nor a host segment gives is dequantized from the quantized
  tensor whose `source` it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.host import HostLayer
from systol_hw.arch import Arch
from systol_hw.program import Program


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where in a program's host windows a quantized tensor lies, from `offset_bytes` on.

    `order` is the memory order of its axes, outermost first: the tensor lies packed as
    `codes.transpose(order)` in row-major order. Of 16-bit values the low bytes come first, then,
    from the next multiple of 64 bytes on, the high ones: both balanced signed bytes.
    """

    tensor: str
    window: str
    offset_bytes: int = 0
    order: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LayerRange:
    """Debug map entry: instructions `first .. first + count - 1` compute `layer`.

    `tag` is the debug tag that they run under, by which counters are read per layer; layers may
    share one. `source_nodes` are the names of the model's nodes that the layer came from.
    """

    layer: str
    first: int
    count: int
    tag: int
    source_nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MachineSegment:
    """A program, the quantized tensors that it reads and writes, and what its instructions compute.

    `layers` is ordered and without overlap; instructions outside every range belong to none.
    """

    name: str
    program: Program
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    layers: tuple[LayerRange, ...]

    def __repr__(self) -> str:
        layers = len({item.layer for item in self.layers})
        return (
            f"MachineSegment({self.name!r}, {len(self.program.code)} instructions, "
            f"{layers} layers)"
        )

    def layers_of_tag(self, tag: int) -> tuple[str, ...]:
        """Names of the layers that run under `tag`, in program order, each once."""
        return tuple(dict.fromkeys(item.layer for item in self.layers if item.tag == tag))

    def layer_at(self, pc: int) -> LayerRange | None:
        """The range that holds the instruction at `pc`."""
        found = [item for item in self.layers if item.first <= pc < item.first + item.count]
        return found[0] if found else None


HostSegment: TypeAlias = HostLayer
"""What ONNX Runtime computes between programs: a host layer as it is, its `model` in the form that
`host_graph.canonical` gives."""

Segment: TypeAlias = MachineSegment | HostSegment


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """An input of the model: a real tensor that the user gives. `preprocessing` says how an image
    file becomes one item of it, in the words of `systol compile --preprocess`; empty where nobody
    told."""

    name: str
    preprocessing: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """An output of the model: its name, the real tensor that holds it, and what its last axis
    counts (class names; empty where nobody told)."""

    name: str
    tensor: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Network:
    """A whole network for one machine.

    Attributes
    ----------
    name
        The model's name.
    arch
        The machine; every machine segment's program is for it.
    segments
        Run in this order.
    tensors
        The quantized tensors that cross a border of a machine segment, by name.
    real
        Types of the real tensors that cross a border: inputs, outputs, and what host segments and
        boundaries read and write.
    inputs, outputs
        The model's, in its order. An input's name is that of its real tensor.
    report
        What the compiler has to say, as JSON values; not needed to run.
    """

    name: str
    arch: Arch
    segments: tuple[Segment, ...]
    tensors: Mapping[str, QTensor]
    real: Mapping[str, TensorType]
    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tensors", "real", "report"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def batch(self) -> int | None:
        """Items that one run takes: the first dimension that every input and output has.

        None where they differ, or have none: a run then takes inputs of exactly their shapes.
        """
        names = (*(item.name for item in self.inputs), *(item.tensor for item in self.outputs))
        sizes = {self.real[name].shape[:1] for name in names}
        (first,) = sizes if len(sizes) == 1 else ((),)
        return first[0] if first else None

    @property
    def machine_segments(self) -> tuple[MachineSegment, ...]:
        """The segments that run on the machine, in order."""
        return tuple(s for s in self.segments if isinstance(s, MachineSegment))

    @property
    def host_segments(self) -> tuple[HostSegment, ...]:
        """The segments that run on the host, in order."""
        return tuple(s for s in self.segments if isinstance(s, HostSegment))

    @cached_property
    def given(self) -> frozenset[str]:
        """Real tensors that the user or a host segment gives."""
        results = (name for segment in self.host_segments for name in segment.outputs)
        return frozenset((*(item.name for item in self.inputs), *results))

    @cached_property
    def quantized(self) -> frozenset[str]:
        """Quantized tensors that no machine segment writes: those that are quantized."""
        written = {b.tensor for segment in self.machine_segments for b in segment.outputs}
        return frozenset(self.tensors) - written

    @cached_property
    def by_source(self) -> Mapping[str, QTensor]:
        """The quantized tensor that a real one is dequantized from, by the real one's name."""
        return {
            tensor.source: tensor
            for tensor in self.tensors.values()
            if tensor.source and tensor.source not in self.given
            and tensor.name not in self.quantized
        }
