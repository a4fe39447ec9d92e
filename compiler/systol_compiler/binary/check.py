"""Checks that the parts of a network fit each other: at construction, and so at load as well."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite, prod

import numpy as np

from systol_compiler.binary.host_graph import check_host_segment
from systol_compiler.binary.network import Binding, HostSegment, MachineSegment, Network
from systol_compiler.binary.window_bytes import window_size
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import ALL_WINDOWS, TAGS
from systol_hw.errors import InputError

MAX_NAME_CHARACTERS = 1024
"""Of every name in a compiled model."""
MAX_REASON_CHARACTERS = 1 << 16
"""Of the sentences that say why nodes are on the host."""
MAX_RANK = 8
"""Dimensions of a tensor."""
DTYPES = (
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
"""Element types that a real tensor may have, by numpy's names."""
MAX_TENSOR_BYTES = 1 << 29
"""What a model may make its user's computer allocate for tensors by stating it: the quantized ones
together, and the real ones together."""
MAX_WINDOW_BYTES = 1 << 29
"""The same, for the windows of one machine segment."""
MAX_EMPTY_BYTES = 1 << 30
"""The same, for the weight memory of one machine segment that neither code nor weights fill: room
for what the unified buffer spills, which costs nothing until the program writes it."""
_REMEDY = "compile it for a smaller batch"


def check_network(network: Network) -> None:
    """Check every rule of `Network` and of its parts.

    Raises
    ------
    InputError
        A rule is broken; the message names the part and the value.
    """
    _Check(network).run()


class _Check:
    """What is known while segments are followed in order."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.place = f"compiled model {network.name[:80]!r}"
        self.real: set[str] = set()
        """Real tensors that the user or a host segment has given."""
        self.written: set[str] = set()
        """Quantized tensors that a machine segment has written."""

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"{self.place}: {message}")

    def run(self) -> None:
        network = self.network
        self.require(bool(network.inputs) and bool(network.outputs), "needs an input and an output")
        self.require(bool(network.segments), "needs a segment")
        self._names()
        self._tensors()
        for item in network.inputs:
            self.require(item.name in network.real, f"input {item.name!r} has no type")
            self.real.add(item.name)
        for segment in network.segments:
            if isinstance(segment, MachineSegment):
                self._machine_segment(segment)
            else:
                self._host_segment(segment)
        for output in network.outputs:
            self._available(output.tensor, f"output {output.name!r}")
            shape = network.real[output.tensor].shape
            self.require(
                not output.labels or (shape != () and len(output.labels) == shape[-1]),
                f"output {output.name!r} of shape {list(shape)} has {len(output.labels)} labels; "
                "they count its last axis",
            )

    def _names(self) -> None:
        network = self.network
        for what, names in (
            ("segment", [segment.name for segment in network.segments]),
            ("input", [item.name for item in network.inputs]),
            ("output", [item.name for item in network.outputs]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            self.require(not twice, f"two {what}s are called {min(twice, default='')!r}")
        for segment in network.host_segments:
            self.require(
                len(segment.reason) <= MAX_REASON_CHARACTERS and segment.reason.isprintable(),
                f"segment {segment.name!r}: its reason must be printable and have at most "
                f"{MAX_REASON_CHARACTERS} characters",
            )
        for name in _names(network):
            self.require(
                len(name) <= MAX_NAME_CHARACTERS and name.isprintable(),
                f"a name must be printable and have at most {MAX_NAME_CHARACTERS} characters, "
                f"unlike {name[:80]!r}; rename it in the model",
            )
        self.require(_is_json(network.report), "its report must consist of JSON values")

    def _tensors(self) -> None:
        network, total = self.network, 0
        for name, tensor in network.tensors.items():
            what = f"tensor {name!r}"
            self.require(name == tensor.name, f"tensor {tensor.name!r} is listed as {name!r}")
            self._shape(tensor.shape, what)
            self.require(tensor.width in (8, 16), f"{what} has a width of {tensor.width} bits")
            low, high = tensor.bounds
            self.require(
                low <= tensor.zero_point <= high and (tensor.width == 8 or tensor.zero_point == 0),
                f"{what} has zero point {tensor.zero_point}",
            )
            with np.errstate(over="ignore"):
                single = float(np.float32(tensor.scale))
            self.require(
                isfinite(single) and 0 < single == tensor.scale,
                f"{what}: its scale {tensor.scale} must be a positive float32",
            )
            total += window_size(tensor)
        self._bounded(total, MAX_TENSOR_BYTES, "for its quantized tensors")
        total = 0
        for name, kind in network.real.items():
            self._shape(kind.shape, f"tensor {name!r}")
            self.require(
                kind.dtype in DTYPES, f"tensor {name!r}: no element type is called {kind.dtype!r}"
            )
            total += prod(kind.shape) * np.dtype(kind.dtype).itemsize
        self._bounded(total, MAX_TENSOR_BYTES, "for its tensors of the model's own types")
        sources = Counter(
            tensor.source
            for tensor in network.tensors.values()
            if tensor.source in network.real and tensor.name not in network.quantized
        )
        twice = [name for name, count in sources.items() if count > 1]
        self.require(not twice, f"two tensors hold {min(twice, default='')!r}")

    def _shape(self, shape: Sequence[int], what: str) -> None:
        self.require(
            len(shape) <= MAX_RANK and all(size > 0 for size in shape),
            f"{what} of shape {list(shape)} must have at most {MAX_RANK} dimensions, all positive",
        )

    def _bounded(self, size: int, limit: int, what: str) -> None:
        self.require(
            size <= limit, f"it needs {size} bytes {what}, and may need {limit}; {_REMEDY}"
        )

    def _available(self, name: str, reader: str) -> None:
        """Check that the real tensor `name` is given, or can be dequantized, by now."""
        network = self.network
        self.require(name in network.real, f"{reader}: no tensor is called {name!r}")
        if name in self.real:
            return
        tensor = network.by_source.get(name)
        if tensor is None or tensor.name not in self.written:
            self.require(False, f"{reader} reads {name!r}, which nothing before it gives")
            return
        kind = network.real[name]
        self.require(
            (kind.dtype, kind.shape) == ("float32", tensor.shape),
            f"{reader} reads {name!r} as {kind}, and tensor {tensor.name!r} holds it as "
            f"float32{list(tensor.shape)}",
        )

    def _host_segment(self, segment: HostSegment) -> None:
        for name in segment.inputs:
            self._available(name, f"segment {segment.name!r}")
        for name in segment.outputs:
            self.require(name in self.network.real, f"tensor {name!r} has no type")
            self.require(
                name not in self.real and not self._held(name), f"{name!r} is computed twice"
            )
            self.real.add(name)
        check_host_segment(segment, self.network.real)

    def _held(self, name: str) -> bool:
        tensor = self.network.by_source.get(name)
        return tensor is not None and tensor.name in self.written

    def _machine_segment(self, segment: MachineSegment) -> None:
        network, what = self.network, f"segment {segment.name!r}"
        program = segment.program
        self.require(program.arch == network.arch, f"{what}: its program is for another machine")
        windows = {window.name: window.size_bytes for window in program.windows}
        self.require(
            len(windows) == len(program.windows) <= ALL_WINDOWS,
            f"{what}: two windows have one name, or there are more than {ALL_WINDOWS}",
        )
        empty = program.weight_memory_bytes - program.weight_image.size - program.code.size
        self._bounded(sum(windows.values()), MAX_WINDOW_BYTES, f"for the windows of {what}")
        self._bounded(empty, MAX_EMPTY_BYTES, f"for the empty weight memory of {what}")
        for bindings in (segment.inputs, segment.outputs):
            self._bindings(bindings, windows, what)
        for binding in segment.inputs:
            self._readable(network.tensors[binding.tensor], what)
        for binding in segment.outputs:
            name = binding.tensor
            self.require(name not in self.written, f"tensor {name!r} is written twice")
            self.written.add(name)
        end = 0
        for item in segment.layers:
            self.require(
                item.first >= end and item.count > 0,
                f"{what}: layer {item.layer!r} begins at instruction {item.first}, inside the one "
                "before, or has no instruction",
            )
            self.require(
                0 <= item.tag < TAGS,
                f"{what}: layer {item.layer!r}: tag {item.tag} is not in 0..{TAGS - 1}",
            )
            end = item.first + item.count
        self.require(
            end <= len(program.code),
            f"{what}: a layer ends at instruction {end} of {len(program.code)}",
        )
        sources: dict[str, tuple[str, ...]] = {}
        for item in segment.layers:
            self.require(
                sources.setdefault(item.layer, item.source_nodes) == item.source_nodes,
                f"{what}: layer {item.layer!r} comes from two sets of nodes",
            )

    def _bindings(
        self, bindings: Iterable[Binding], windows: Mapping[str, int], what: str
    ) -> None:
        """Check places and memory orders, and that no two bindings share a byte."""
        taken: list[tuple[str, int, int]] = []
        for binding in bindings:
            name, window = binding.tensor, binding.window
            self.require(name in self.network.tensors, f"{what}: no tensor is called {name!r}")
            self.require(window in windows, f"{what}: no window is called {window!r}")
            tensor = self.network.tensors[name]
            self.require(
                sorted(binding.order) == list(range(len(tensor.shape))),
                f"{what}: {list(binding.order)} is no order of the axes of {name!r}, which has "
                f"{len(tensor.shape)}",
            )
            end = binding.offset_bytes + window_size(tensor)
            self.require(
                0 <= binding.offset_bytes and end <= windows[window],
                f"{what}: tensor {name!r} ends at byte {end} of window {window!r}, which has "
                f"{windows[window]}",
            )
            taken.append((window, binding.offset_bytes, end))
        taken.sort()
        for (window, _, end), (other, start, _) in pairwise(taken):
            self.require(
                window != other or end <= start, f"{what}: two tensors share window {window!r}"
            )
        tensors = [binding.tensor for binding in bindings]
        self.require(len(set(tensors)) == len(tensors), f"{what}: a tensor is bound twice")

    def _readable(self, tensor: QTensor, what: str) -> None:
        """Check that `tensor` has been written, or can be quantized, by now."""
        if tensor.name in self.written:
            return
        source = tensor.source
        self.require(
            tensor.name in self.network.quantized and source in self.real,
            f"{what} reads {tensor.name!r}, which nothing before it gives",
        )
        kind = self.network.real[source]
        self.require(
            kind.shape == tensor.shape,
            f"{what}: tensor {tensor.name!r} of shape {list(tensor.shape)} cannot hold {source!r}, "
            f"{kind}",
        )


def _names(network: Network) -> Iterator[str]:
    """Every name in the network: they are printed, and stand in the binary's string tables."""
    yield network.name
    for item in network.inputs:
        yield from (item.name, item.preprocessing)
    for output in network.outputs:
        yield from (output.name, output.tensor, *output.labels)
    for tensor in network.tensors.values():
        yield from (tensor.name, tensor.source)
    yield from network.real
    for segment in network.segments:
        yield segment.name
        if isinstance(segment, MachineSegment):
            yield from (window.name for window in segment.program.windows)
            for layer in segment.layers:
                yield from (layer.layer, *layer.source_nodes)
        else:
            yield from (*segment.operators, *segment.source_nodes)


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
