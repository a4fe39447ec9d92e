"""Readable text of a quantized graph: one line per tensor, boundary, layer and segment."""

from systol_compiler.old_quantized import (
    DequantizeOutput,
    HostSegment,
    Layer,
    QConv2D,
    QLinear,
    QMaxPool,
    QuantizedGraph,
)


def print_graph(graph: QuantizedGraph) -> str:
    """Text of `graph`; weights appear as shapes, since their values belong to exports."""
    lines = [f"quantized graph {graph.name!r} {{"]
    for entry in graph.inputs:
        lines.append(
            f"  input {entry.name!r} f32{_dims(entry.source_shape)} "
            f"permute{list(entry.permutation)} quantize -> {graph.tensors[entry.tensor]}"
        )
    for layer in graph.layers:
        lines.append(f"  {print_layer(layer)}")
        if not isinstance(layer, HostSegment):
            lines.append(f"      -> {graph.tensors[layer.output]}")
    for result in graph.outputs:
        if isinstance(result, DequantizeOutput):
            lines.append(
                f"  output {result.name!r} f32{_dims(result.source_shape)} = dequantize "
                f"%{result.tensor} permute{list(result.permutation)}"
            )
        else:
            lines.append(
                f"  output {result.name!r} {result.dtype}{_dims(result.source_shape)} from host"
            )
    lines.append("}")
    return "\n".join(lines)


def print_layer(layer: Layer) -> str:
    """One line that states everything of a layer but its arrays."""
    if isinstance(layer, HostSegment):
        reads = ", ".join(f"%{name}" for name in layer.inputs)
        ops = ", ".join(layer.operators)
        return f"host {layer.name!r} ({reads}) runs {ops}: {layer.reason}"
    origin = f"from {', '.join(layer.source_nodes)}"
    if isinstance(layer, QMaxPool):
        return (
            f"maxpool {layer.name!r} (%{layer.input}) kernel={_pair(layer.kernel)} "
            f"strides={_pair(layer.strides)} pads={list(layer.pads)} "
            f"dilations={_pair(layer.dilations)} {origin}"
        )
    requantization = f"zp_in={layer.zp_in} zp_out={layer.zp_out} clip=[{layer.lo}, {layer.hi}]"
    weights = f"weights=i8{_dims(layer.weights.shape)}"
    if isinstance(layer, QLinear):
        return f"linear {layer.name!r} (%{layer.input}) {weights} {requantization} {origin}"
    assert isinstance(layer, QConv2D)
    return (
        f"conv2d {layer.name!r} (%{layer.input}) {weights} strides={_pair(layer.strides)} "
        f"pads={list(layer.pads)} dilations={_pair(layer.dilations)} groups={layer.groups} "
        f"{requantization} {origin}"
    )


def _dims(shape: tuple[int, ...]) -> str:
    return f"[{'x'.join(map(str, shape))}]"


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
