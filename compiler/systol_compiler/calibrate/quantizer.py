"""Post-training quantization: a canonical float graph and samples in, a quantized graph out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from systol_compiler.calibrate.bias_correction import BiasCorrector
from systol_compiler.calibrate.equalize import equalize
from systol_compiler.calibrate.grouping import group_tensors
from systol_compiler.calibrate.histogram import Distribution
from systol_compiler.calibrate.host_layer import build_host_layer, passing_layer
from systol_compiler.calibrate.inputs.samples import CalibrationData, Samples
from systol_compiler.calibrate.numbering import number_tensors
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.selection import select_ranges
from systol_compiler.calibrate.statistics import collect
from systol_compiler.graph.float_graph import Array, Graph, GraphOutput, Node
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.layer import Layer
from systol_compiler.quantized.operator import Operator, registry
from systol_compiler.quantized.placement.partition import Partition, Unit, partition
from systol_hw.errors import UnsupportedModelError

_NOTHING = "the machine has nothing to run: the host runs the whole model"
_REASONS_MOST = 3
_TENSORS_NAMED_MOST = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """A quantized graph and where its source's nodes went.

    Attributes
    ----------
    graph
        The float graph that `quantized` stands for: the source with channels equalized, whose
        tensors an error report compares.
    """

    graph: Graph
    quantized: QuantizedGraph
    partition: Partition


def quantize_graph(
    graph: Graph, calibration: CalibrationData | None, options: QuantizationOptions | None = None
) -> QuantizedGraph:
    """As `quantize`, the graph alone."""
    return quantize(graph, calibration, options).quantized


def quantize(
    graph: Graph,
    calibration: CalibrationData | None,
    options: QuantizationOptions | None = None,
    *,
    strict: bool = False,
    operators: Mapping[str, Operator] | None = None,
) -> Quantization:
    """Quantize a canonical graph; what the machine cannot run becomes host layers.

    Parameters
    ----------
    graph
        Canonical, with concrete shapes.
    calibration
        Real inputs, preprocessed as for the float model; none are needed where the host runs
        everything.
    options
        How ranges are chosen; the defaults are for accuracy.
    strict
        Refuse a graph of which the host must run a part.
    operators
        The registry, unless a test brings its own.

    Raises
    ------
    InputError
        Calibration data is missing or does not fit, or an override names no tensor.
    UnsupportedModelError
        A node can run nowhere, or not where `strict` asks; the message names nodes and rules.
    """
    options = options or QuantizationOptions()
    table = registry() if operators is None else operators
    parts = partition(graph, strict=strict, operators=table)
    if not parts.machine:
        return Quantization(
            graph=graph, quantized=_Quantizer(parts, table, {}).graph_of_host(), partition=parts
        )
    samples = Samples(graph, calibration, "calibration", options.most_samples)
    if options.equalize and not samples.random:
        graph = equalize(graph, samples, options.overrides)
    seen: dict[str, Distribution] = {}
    host: dict[str, str] = {}
    while True:
        parts = partition(graph, strict=strict, host=host, operators=table)
        groups = group_tensors(parts, table, unify_add=options.unify_add)
        observed = [name for group in groups for name in group.observed if name not in seen]
        seen |= collect(graph, samples, observed)
        spans = (
            select_ranges(parts, groups, seen, samples, options)
            if options.method == "auto" and not samples.random
            else ()
        )
        numbering = number_tensors(groups, seen, options, spans)
        quantizer = _Quantizer(parts, table, numbering.numbers)
        refusal = quantizer.build(samples, options)
        if refusal is None:
            break
        # What no rule foresees, such as weights whose sums could overflow, is a reason as well.
        host[refusal[0]] = refusal[1]
    notes = [samples.note] if samples.note else []
    result = quantizer.graph((*notes, *_shortened(numbering.notes)))
    result.verify()
    return Quantization(graph=graph, quantized=result, partition=parts)


def _shortened(notes: Sequence[str]) -> list[str]:
    more = len(notes) - _TENSORS_NAMED_MOST
    shown = list(notes[:_TENSORS_NAMED_MOST])
    return [*shown, f"and {more} more such tensors"] if more > 0 else shown


class _Quantizer:
    def __init__(
        self, parts: Partition, table: Mapping[str, Operator], numbers: Mapping[str, Numbers]
    ) -> None:
        self._parts = parts
        self._graph = parts.graph
        self._table = table
        self._numbers = numbers
        self._builder = LayerBuilder(self._graph, numbers)
        self._layers: list[Layer | HostLayer] = []

    def build(
        self, samples: Samples, options: QuantizationOptions
    ) -> tuple[str, str] | None:
        """Build all layers; the name of a node that cannot be built, and why."""
        corrector = None
        if options.bias_correction:
            corrector = BiasCorrector(self._parts, self._table, samples, options)
        builder = self._builder
        taken = {node.name for node in self._graph.nodes}
        hosts = 0
        for segment in self._parts.segments:
            if isinstance(segment[0], Node):
                layer = self._host_layer(segment, _fresh("host", hosts, taken))
                hosts += 1
                self._layers.append(layer)
                if corrector is not None:
                    corrector.run_host(layer, builder)
                continue
            for unit in segment:
                assert isinstance(unit, MachineNode)
                first = len(builder.layers)
                builder.current = unit
                try:
                    self._table[unit.node.op].build(unit.node, builder)
                except UnsupportedModelError as error:
                    return unit.node.name, str(error)
                if corrector is not None:
                    builder.layers[first:] = corrector.run_unit(
                        unit, builder.layers[first:], builder
                    )
                self._layers += builder.layers[first:]
        return None

    def _host_layer(self, segment: Sequence[Unit], name: str) -> HostLayer:
        nodes = [unit for unit in segment if isinstance(unit, Node)]
        own = {node.name for node in nodes}
        written = [tensor for node in nodes for tensor in node.outputs if tensor]
        shown = {output.tensor for output in self._graph.outputs}
        outputs = [
            tensor
            for tensor in written
            if tensor in shown
            or any(reader.name not in own for reader in self._graph.consumers.get(tensor, ()))
        ]
        return build_host_layer(self._graph, name, nodes, outputs, self._reason(nodes))

    def _reason(self, nodes: Sequence[Node]) -> str:
        sources = {source for node in nodes for source in (node.sources or (node.name,))}
        reasons = dict.fromkeys(
            row.reason for row in self._parts.placed
            if row.name in sources and row.place == "host"
        )
        text = "; ".join(list(reasons)[:_REASONS_MOST])
        more = len(reasons) - _REASONS_MOST
        return f"{text}; and {more} more reasons" if more > 0 else text

    def graph_of_host(self) -> QuantizedGraph:
        """The result where the machine has nothing to run."""
        names = {node.name for node in self._graph.nodes}
        self._layers += [
            self._host_layer(segment, _fresh("host", place, names))
            for place, segment in enumerate(self._parts.segments)
        ]
        result = self.graph((_NOTHING,))
        result.verify()
        return result

    def graph(self, notes: tuple[str, ...]) -> QuantizedGraph:
        """The result."""
        source, builder = self._graph, self._builder
        layers = list(self._layers)
        outputs = list(source.outputs)
        # A network needs a layer: where nothing is computed, inputs pass through one.
        passed = {*source.constants, *(() if layers else source.inputs)}
        passing = list(dict.fromkeys(o.tensor for o in outputs if o.tensor in passed))
        real = {name: source.types[name] for name in source.inputs}
        if passing:
            name = _fresh("constants", 0, {layer.name for layer in layers})
            layer = passing_layer(source, name, passing)
            layers.append(layer)
            moved = dict(zip(passing, layer.outputs, strict=True))
            real |= {moved[tensor]: source.types[tensor] for tensor in passing}
            outputs = [
                GraphOutput(name=o.name, tensor=moved.get(o.tensor, o.tensor)) for o in outputs
            ]
        layers = _live(layers, {o.tensor for o in outputs}, builder.tensors)
        used: dict[str, None] = {}
        for each in layers:
            names = (*each.inputs, *each.outputs)
            if isinstance(each, Layer):
                used.update(dict.fromkeys(names))
            else:
                real |= {n: source.types[n] for n in names if n in source.types}
        real |= {o.tensor: source.types[o.tensor] for o in outputs if o.tensor in source.types}
        tensors: dict[str, QTensor] = {name: builder.tensors[name] for name in used}
        constants: dict[str, Array] = {
            name: value for name, value in builder.constants.items() if name in used
        }
        return QuantizedGraph(
            name=source.name, inputs=source.inputs, outputs=tuple(outputs), real=real,
            tensors=tensors, constants=constants, layers=tuple(layers), notes=notes,
        )


def _fresh(wish: str, number: int, taken: set[str]) -> str:
    name = wish if number == 0 else f"{wish}.{number}"
    while name in taken:
        name += "_"
    return name


def _live(
    layers: Sequence[Layer | HostLayer], shown: set[str], tensors: Mapping[str, QTensor]
) -> list[Layer | HostLayer]:
    """The layers without machine layers whose results nobody reads: a product may read what lies
    before a move, which is then in vain."""
    read = set(shown)
    for layer in layers:
        if isinstance(layer, HostLayer):
            read.update(layer.inputs)
    kept: list[Layer | HostLayer] = []
    for layer in reversed(layers):
        if isinstance(layer, Layer):
            if not any(n in read or tensors[n].source in read for n in layer.outputs):
                continue
            read.update(layer.inputs)
        kept.append(layer)
    return kept[::-1]
