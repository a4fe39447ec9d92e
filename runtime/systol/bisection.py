"""Finds the first tensor that an executor computes otherwise than the layers define it.

Only tensors that cross between host and machine can be looked at, so a few more of them are made
outputs of the network at a time, and the interval that holds the first difference is narrowed.
"""

import dataclasses
from collections.abc import Mapping

from systol.execution.session import Device
from systol_compiler.calibrate.errors.bisect import Difference, first_difference
from systol_compiler.compile import CompileOptions, compile_quantized
from systol_compiler.graph.float_graph import GraphOutput, TensorType
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.graph import QuantizedGraph
from systol_hw.arch import Arch

_SHOWN = 4
"""Tensors that are shown at a time: a program has eight windows, and needs some itself."""


def first_machine_difference(
    quantized: QuantizedGraph,
    inputs: Mapping[str, Array],
    *,
    arch: Arch,
    device: Device,
    options: CompileOptions | None = None,
) -> Difference | None:
    """The first tensor, in graph order, that `device` has wrong for one run's `inputs`; None if
    all are right. Raises what compiling and running raise."""
    names = [
        name
        for layer in quantized.machine_layers
        for name in layer.outputs
        if quantized.tensors[name].source
    ]
    found = _difference(quantized, inputs, [], arch, device, options)
    if found is None:
        return None
    low, high = 0, len(names)
    while low < high:
        step = max(1, (high - low) // _SHOWN)
        shown = names[low:high:step][:_SHOWN]
        found = _difference(quantized, inputs, shown, arch, device, options) or found
        wrong = next((n for n in shown if quantized.tensors[n].source == found.tensor), None)
        if wrong is None:
            low = low + (len(shown) - 1) * step + 1  # behind the last that was shown
        else:
            place = names.index(wrong)
            low, high = max(low, place - step + 1), place
    return found


def _difference(
    quantized: QuantizedGraph, inputs: Mapping[str, Array], shown: list[str], arch: Arch,
    device: Device, options: CompileOptions | None,
) -> Difference | None:
    model = compile_quantized(_with_outputs(quantized, shown), arch=arch, options=options)
    result = device.load(model).run(inputs, keep_tensors=True)
    return first_difference(quantized, inputs, result.tensors)


def _with_outputs(quantized: QuantizedGraph, shown: list[str]) -> QuantizedGraph:
    """`quantized` with further tensors as outputs, under names of their own."""
    taken = {output.name for output in quantized.outputs}
    outputs, real = list(quantized.outputs), dict(quantized.real)
    for name in shown:
        tensor = quantized.tensors[name]
        if any(output.tensor == tensor.source for output in outputs):
            continue
        wish = f"bisect.{tensor.source}"
        while wish in taken:
            wish += "_"
        taken.add(wish)
        outputs.append(GraphOutput(name=wish, tensor=tensor.source))
        real.setdefault(tensor.source, TensorType(dtype="float32", shape=tensor.shape))
    return dataclasses.replace(quantized, outputs=tuple(outputs), real=real)
