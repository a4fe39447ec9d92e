"""Lowers the quantized graph to matrix work: kernel-row folding, pool fusion, image folding."""

from collections.abc import Mapping

import numpy as np

from systol_compiler.old_quantized import (
    DequantizeOutput,
    Int8Array,
    MachineLayer,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    QuantizedGraph,
)
from systol_compiler.work import (
    WHOLE,
    Buffer,
    LoweredNetwork,
    MatrixWork,
    PoolWork,
    Window2D,
    Work,
)
from systol_hw.arch import Arch

_LINE_LIMIT = 1 << 14


def lower(graph: QuantizedGraph, arch: Arch, images: int) -> LoweredNetwork:
    """The machine layers of `graph` as work on groups of `images` images.

    A max-pool is fused into the convolution before it if nothing else reads that convolution's
    result and one pooled position's window fits a bank of accumulators: it then runs in int32
    directly from the accumulators, exactly, because requantization is monotone (m > 0).

    Raises
    ------
    UnsupportedModelError
        A layer's figures do not fit the instruction's fields.
    """
    outputs = _outputs(graph)
    readers: dict[str, int] = dict.fromkeys(graph.tensors, 0)
    for layer in graph.machine_layers:
        readers[layer.input] += 1
    works: list[Work] = []
    layers = list(graph.machine_layers)
    while layers:
        layer = layers.pop(0)
        pool: QMaxPool | None = None
        if isinstance(layer, QConv2D) and readers[layer.output] == 1:
            follower = next(la for la in layers if la.input == layer.output)
            fits = isinstance(follower, QMaxPool) and _pool_fits(layer, follower, graph, arch)
            if fits and layer.output not in outputs:
                assert isinstance(follower, QMaxPool)
                pool = follower
                layers.remove(pool)
        works.append(_lower_layer(layer, pool, graph.tensors, images))
    used = {work.input for work in works} | {work.output for work in works} | set(outputs)
    network = LoweredNetwork(
        name=graph.name,
        images=images,
        buffers={
            name: Buffer(name=name, images=images, image_bytes=tensor.features)
            for name, tensor in graph.tensors.items()
            if name in used
        },
        works=tuple(works),
        inputs=tuple(
            dict.fromkeys(entry.tensor for entry in graph.inputs if entry.tensor in used)
        ),
        outputs=outputs,
    )
    network.verify()
    return network


def _outputs(graph: QuantizedGraph) -> tuple[str, ...]:
    """Tensors that the machine must hand to the host: shown, or read by a host segment."""
    given = {entry.tensor for entry in graph.inputs}
    names = [item.tensor for item in graph.outputs if isinstance(item, DequantizeOutput)]
    for segment in graph.host_segments:
        names += segment.inputs
    return tuple(name for name in dict.fromkeys(names) if name not in given)


def _window(layer: QMaxPool) -> Window2D:
    return Window2D(
        kernel=layer.kernel,
        strides=layer.strides,
        dilations=layer.dilations,
        pads=(layer.pads[0], layer.pads[1]),
    )


def _pool_fits(conv: QConv2D, pool: QMaxPool, graph: QuantizedGraph, arch: Arch) -> bool:
    window = _window(pool)
    _, rows, columns, _ = graph.tensors[conv.output].shape
    _, out_rows, out_columns, _ = graph.tensors[pool.output].shape

    def widest(axis: int, outputs: int, size: int) -> int:
        spans = [window.span(axis, i, i + 1, size) for i in range(outputs)]
        return max(high - low for low, high in spans)

    positions = widest(0, out_rows, rows) * widest(1, out_columns, columns)
    return positions <= arch.accumulator_bank_rows


def _lower_layer(
    layer: MachineLayer, pool: QMaxPool | None, tensors: Mapping[str, QTensor], images: int
) -> Work:
    source = tensors[layer.input]
    if isinstance(layer, QMaxPool):
        target = tensors[layer.output]
        return PoolWork(
            name=layer.name,
            layers=(layer.name,),
            source_nodes=layer.source_nodes,
            input=layer.input,
            output=layer.output,
            planes=images,
            lines=source.shape[1],
            columns=source.shape[2],
            channels=source.shape[3],
            pool=_window(layer),
            out_size=(target.shape[1], target.shape[2]),
        )
    if isinstance(layer, QLinear):
        return _matrix_work(
            layer,
            planes=1,
            lines=images,
            line_bytes=source.features,
            element_bytes=source.features,
            size=(images, 1),
            weights=np.ascontiguousarray(layer.weights.T)[None, None],
        )
    return _lower_conv(layer, pool, tensors, images)


def _lower_conv(
    layer: QConv2D, pool: QMaxPool | None, tensors: Mapping[str, QTensor], images: int
) -> MatrixWork:
    source = tensors[layer.input]
    product = tensors[layer.output]
    _, height, width, channels = source.shape
    _, rows, columns, _ = product.shape
    weights = _dense(layer, channels)
    taps = layer.kernel
    if layer.dilations[1] == 1 or taps[1] == 1:
        # The kernel's row is contiguous bytes of the input row: kw * C of them in one step.
        weights = weights.reshape(taps[0], 1, taps[1] * channels, -1)
        taps = (taps[0], 1)
    planes, lines = images, height
    if (
        pool is None
        and taps[0] == 1
        and layer.pads[0] == layer.pads[2] == 0
        and height == rows * layer.strides[0]
        and images * height < _LINE_LIMIT
    ):
        # No window crosses from image to image, and output rows stay evenly spaced.
        planes, lines, rows = 1, images * height, images * rows
    return _matrix_work(
        layer,
        pool=pool,
        tensors=tensors,
        planes=planes,
        lines=lines,
        line_bytes=width * channels,
        element_bytes=channels,
        size=(rows, columns),
        steps=layer.strides,
        taps=taps,
        tap_steps=layer.dilations,
        pads=(layer.pads[0], layer.pads[1]),
        weights=np.ascontiguousarray(weights),
    )


def _dense(layer: QConv2D, channels: int) -> Int8Array:
    """Weights as [kh, kw, C, O]; groups become a block-diagonal matrix."""
    per_group = layer.weights.transpose(1, 2, 3, 0)
    if layer.groups == 1:
        return per_group
    kh, kw, inputs, outputs = per_group.shape
    width = outputs // layer.groups
    dense = np.zeros((kh, kw, channels, outputs), np.int8)
    for group in range(layer.groups):
        out = slice(group * width, (group + 1) * width)
        dense[:, :, group * inputs : (group + 1) * inputs, out] = per_group[..., out]
    return dense


def _matrix_work(
    layer: QConv2D | QLinear,
    *,
    planes: int,
    lines: int,
    line_bytes: int,
    element_bytes: int,
    size: tuple[int, int],
    weights: Int8Array,
    steps: tuple[int, int] = (1, 1),
    taps: tuple[int, int] = (1, 1),
    tap_steps: tuple[int, int] = (1, 1),
    pads: tuple[int, int] = (0, 0),
    pool: QMaxPool | None = None,
    tensors: Mapping[str, QTensor] | None = None,
) -> MatrixWork:
    out_size, output = size, layer.output
    if pool is not None:
        assert tensors is not None
        shape = tensors[pool.output].shape
        out_size, output = (shape[1], shape[2]), pool.output
    return MatrixWork(
        name=layer.name,
        layers=(layer.name,) if pool is None else (layer.name, pool.name),
        source_nodes=layer.source_nodes + (() if pool is None else pool.source_nodes),
        input=layer.input,
        output=output,
        planes=planes,
        lines=lines,
        line_bytes=line_bytes,
        element_bytes=element_bytes,
        size=size,
        steps=steps,
        taps=taps,
        tap_steps=tap_steps,
        pads=pads,
        weights=weights,
        bias=layer.bias,
        multipliers=layer.multipliers,
        shifts=layer.shifts,
        zp_in=layer.zp_in,
        zp_out=layer.zp_out,
        lo=layer.lo,
        hi=layer.hi,
        pool=WHOLE if pool is None else _window(pool),
        out_size=out_size,
    )
