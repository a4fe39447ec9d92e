"""A compiled model: what the compiler makes, a binary holds and the runtime runs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, TypeAlias

from systol_compiler.old_quantized import HostOutput, HostSegment, Output, QTensor, QuantizeInput
from systol_hw.arch import TAGS, Arch
from systol_hw.errors import InputError
from systol_hw.program import Program

MAX_NAME_CHARACTERS = 1024
"""Of every name in a compiled model."""
MAX_STATED_BYTES = 1 << 28
"""What a model may make its user's computer allocate by stating it: all its tensors together, and
of each machine segment the windows and the weight memory that neither code nor weights fill."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where in a program's host windows a tensor lies: packed, from `offset_bytes` on."""

    tensor: str
    window: str
    offset_bytes: int = 0


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


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineSegment:
    """A program, the int8 tensors that it reads and writes, and what its instructions compute.

    `layers` is ordered and without overlap; instructions outside every range belong to none.
    """

    name: str
    program: Program
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    layers: tuple[LayerRange, ...]

    def layers_of_tag(self, tag: int) -> tuple[str, ...]:
        """Names of the layers that run under `tag`, in program order, each once."""
        return tuple(dict.fromkeys(item.layer for item in self.layers if item.tag == tag))


Segment: TypeAlias = MachineSegment | HostSegment


@dataclass(frozen=True, kw_only=True, eq=False)
class CompiledModel:
    """A whole network for one machine, checked at construction.

    Parameters
    ----------
    name
        The model's name.
    arch
        The machine; every machine segment's program is for it.
    segments
        Run in this order.
    tensors
        The int8 tensors that cross from the host to the machine or between segments, by name.
    inputs, outputs
        The model's, in its order.
    report
        What the compiler has to say, as JSON values; not needed to run.

    Raises
    ------
    InputError
        The parts do not fit each other: a tensor that nothing describes, that nothing wrote
        before it is read, that lies outside its window, and so on.
    """

    name: str
    arch: Arch
    segments: tuple[Segment, ...]
    tensors: Mapping[str, QTensor]
    inputs: tuple[QuantizeInput, ...]
    outputs: tuple[Output, ...]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "report", MappingProxyType(dict(self.report)))
        check_model(self)

    @property
    def batch(self) -> int:
        """Items that one run takes: the first dimension of every input."""
        return self.inputs[0].source_shape[0]

    @property
    def machine_segments(self) -> tuple[MachineSegment, ...]:
        """The segments that run on the machine, in order."""
        return tuple(s for s in self.segments if isinstance(s, MachineSegment))

    @property
    def host_segments(self) -> tuple[HostSegment, ...]:
        """The segments that run on the host, in order."""
        return tuple(s for s in self.segments if isinstance(s, HostSegment))


def check_model(model: CompiledModel) -> None:
    """Check that the parts of `model` fit each other; raises `InputError`."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"compiled model {model.name!r}: {message}")

    require(bool(model.inputs) and bool(model.outputs), "needs an input and an output")
    require(bool(model.segments), "needs a segment")
    for what, names in (
        ("segment", [segment.name for segment in model.segments]),
        ("input", [item.name for item in model.inputs]),
        ("output", [item.name for item in model.outputs]),
    ):
        twice = {name for name, count in Counter(names).items() if count > 1}
        require(not twice, f"two {what}s are called {min(twice, default='')!r}")
    for name in _names(model):
        require(
            name.isprintable() and len(name) <= MAX_NAME_CHARACTERS,
            f"a name must be printable and have at most {MAX_NAME_CHARACTERS} characters, unlike "
            f"{name[:80]!r}; rename it in the model",
        )
    require(_is_json(model.report), "its report must consist of JSON values")
    for name, tensor in model.tensors.items():
        require(name == tensor.name, f"tensor {tensor.name!r} is listed as {name!r}")
        require(all(size > 0 for size in tensor.shape), f"tensor {name!r} has no elements")
    stated = sum(tensor.size_bytes for tensor in model.tensors.values())
    require(
        stated <= MAX_STATED_BYTES,
        f"its tensors have {stated} bytes together, and may have {MAX_STATED_BYTES}; compile it "
        "for a smaller batch",
    )
    written: set[str] = set()
    for item in model.inputs:
        require(item.tensor in model.tensors, f"input {item.name!r}: no tensor {item.tensor!r}")
        tensor = model.tensors[item.tensor]
        require(
            len(item.source_shape) > 0
            and sorted(item.permutation) == list(range(len(item.source_shape)))
            and _size(item.source_shape) == tensor.size_bytes,
            f"input {item.name!r} of shape {item.source_shape}, permuted by {item.permutation}, "
            f"does not fill tensor {tensor.name!r} of shape {tensor.shape}",
        )
        require(item.tensor not in written, f"tensor {item.tensor!r} is written twice")
        written.add(item.tensor)
    on_host: dict[str, HostOutput] = {}
    for segment in model.segments:
        if isinstance(segment, MachineSegment):
            _check_machine_segment(model, segment, written)
            continue
        missing = set(segment.inputs) - written
        require(not missing, f"segment {segment.name!r} reads {min(missing, default='')!r} unset")
        for result in segment.outputs:
            require(result.name not in on_host, f"output {result.name!r} is computed twice")
            on_host[result.name] = result
    for output in model.outputs:
        if isinstance(output, HostOutput):
            require(
                on_host.get(output.name) == output, f"no segment computes output {output.name!r}"
            )
            continue
        require(output.tensor in written, f"output {output.name!r}: nothing writes its tensor")
        tensor = model.tensors[output.tensor]
        require(
            sorted(output.permutation) == list(range(len(tensor.shape)))
            and len(output.source_shape) > 0
            and _size(output.source_shape) == tensor.size_bytes,
            f"output {output.name!r} of shape {output.source_shape} does not come from tensor "
            f"{tensor.name!r} of shape {tensor.shape}, permuted by {output.permutation}",
        )
    require(
        len({item.source_shape[0] for item in model.inputs}) == 1,
        "inputs differ in their first dimension, the batch",
    )


def _check_machine_segment(
    model: CompiledModel, segment: MachineSegment, written: set[str]
) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"compiled model {model.name!r}, segment {segment.name!r}: {message}")

    require(segment.program.arch == model.arch, "its program is for another machine")
    windows = {window.name: window.size_bytes for window in segment.program.windows}
    require(len(windows) == len(segment.program.windows), "two windows have one name")
    program = segment.program
    held = program.weight_image.size + program.code.size
    stated = sum(windows.values()) + max(0, program.weight_memory_bytes - held)
    require(
        stated <= MAX_STATED_BYTES,
        f"it needs {stated} bytes for host windows and empty weight memory, and may need "
        f"{MAX_STATED_BYTES}; compile it for a smaller batch",
    )
    for binding in (*segment.inputs, *segment.outputs):
        require(binding.tensor in model.tensors, f"no tensor is called {binding.tensor!r}")
        require(binding.window in windows, f"no window is called {binding.window!r}")
        end = binding.offset_bytes + model.tensors[binding.tensor].size_bytes
        require(
            0 <= binding.offset_bytes and end <= windows[binding.window],
            f"tensor {binding.tensor!r} ends at byte {end} of window {binding.window!r}, which "
            f"has {windows[binding.window]}",
        )
    for binding in segment.inputs:
        require(binding.tensor in written, f"it reads {binding.tensor!r}, which nothing wrote")
    for binding in segment.outputs:
        require(binding.tensor not in written, f"tensor {binding.tensor!r} is written twice")
        written.add(binding.tensor)
    end = 0
    for item in segment.layers:
        require(
            item.first >= end and item.count > 0,
            f"layer {item.layer!r} begins at instruction {item.first}, inside the one before, or "
            "has no instruction",
        )
        require(0 <= item.tag < TAGS, f"layer {item.layer!r}: tag {item.tag} is not in 0..15")
        end = item.first + item.count
    require(
        end <= len(segment.program.code),
        f"a layer ends at instruction {end} of {len(segment.program.code)}",
    )


def _names(model: CompiledModel) -> Iterator[str]:
    """Every name in the model: they are printed, and stand in the binary's string tables."""
    yield model.name
    yield from (item.name for item in (*model.inputs, *model.outputs))
    for tensor in model.tensors.values():
        yield from (tensor.name, tensor.source)
    for segment in model.segments:
        yield segment.name
        if isinstance(segment, MachineSegment):
            yield from (window.name for window in segment.program.windows)
            for item in segment.layers:
                yield from (item.layer, *item.source_nodes)
        else:
            yield from (segment.reason, *segment.operators, *segment.source_nodes)
            yield from (output.name for output in segment.outputs)


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or isinstance(value, str)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dimension in shape:
        size *= dimension
    return size if all(dimension > 0 for dimension in shape) else -1
