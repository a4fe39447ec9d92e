"""Lowers a machine part of the quantized graph to nests over buffers."""

from collections.abc import Mapping
from dataclasses import replace

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.fusion import fuse_pools
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.layout import memory_orders
from systol_hw.arch import Arch


def lower(
    graph: QuantizedGraph, part: MachinePart, arch: Arch, images: int = 1
) -> LoweredNetwork:
    """The nests of `part`; the graph's tensors hold `images` items, or ones that belong together.

    Raises
    ------
    UnsupportedModelError
        A layer's figures do not fit the instruction's fields.
    """
    builder = NestBuilder(arch, graph.tensors, memory_orders(graph, part))
    for name in part.inputs:
        builder.add_input(name)
    for layer in part.layers:
        for name in layer.inputs:
            if name in graph.constants and not builder.claimed(name):
                builder.add_constant(name, graph.constants[name])
    for layer in reversed(part.layers):
        layer.claim(builder)
    for layer in part.layers:
        builder.layer, builder.sources = layer.name, layer.source_nodes
        layer.lower(builder)
    outputs = _show(builder, part)
    network = LoweredNetwork(
        name=graph.name,
        images=images,
        buffers=_used(builder, outputs),
        nests=tuple(builder.nests),
    )
    network = fuse_pools(network, arch)
    network.verify()
    return network


def _show(builder: NestBuilder, part: MachinePart) -> set[str]:
    """Give every output a buffer of its own that the host can read."""
    shown: set[str] = set()
    for name in part.outputs:
        view, order = builder.view(name), builder.orders[name]
        buffer = builder.buffers[view.buffer]
        whole = buffer.plane_bytes == view.size and view.offset == 0
        if not (whole and view.is_packed(order) and buffer.home is Home.NONE
                and view.buffer not in shown):
            builder.layer, builder.sources = f"{name}.output", ()
            builder.show_copy(name)
            view = builder.view(name)
            buffer = builder.buffers[view.buffer]
        builder.buffers[view.buffer] = replace(
            buffer, home=Home.OUTPUT, tensor=name, order=order
        )
        shown.add(view.buffer)
    return shown


def _used(builder: NestBuilder, outputs: set[str]) -> Mapping[str, Buffer]:
    used = set(outputs)
    for nest in builder.nests:
        used.add(nest.output.buffer)
        used.update(operand.buffer for operand in nest.reads)
        used.update(nest.constants)
    return {name: buffer for name, buffer in builder.buffers.items() if name in used}
