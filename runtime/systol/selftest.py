"""A tiny compiled model, written by hand, whose answer is known: what `systol doctor` runs.

One fully connected layer of eight inputs and eight outputs on the `nano` machine, two images a
run. The answer is computed here from the weights, so every executor can be held to it.
"""

import numpy as np
import numpy.typing as npt
import onnx

from systol_compiler.binary.host_graph import canonical
from systol_compiler.binary.model import (
    Binding,
    CompiledModel,
    HostSegment,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
)
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.arithmetic import dequantize, normalize_multiplier, quantize
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PRESETS
from systol_hw.isa.assembly import assemble
from systol_hw.program import Window, make_program

FEATURES = 8
BATCH = 2
IN_SCALE, IN_ZERO_POINT = 0.03125, -5
OUT_SCALE, OUT_ZERO_POINT = 0.5, 3
_FACTOR = 0.0078125
_PARAMETERS_AT = FEATURES * FEATURES

# The layer's rows are its images: y runs over them, k over the features of one.
_CODE = f"""
tag tag=1
read_host signal=matrix run_bytes={BATCH * FEATURES}
read_weight_memory signal=vector memory_address={_PARAMETERS_AT} ub_address=0x40 run_bytes=64
read_weights row_pitch={FEATURES} k_last=8 n_last=8
matmul wait=load signal=vector p_limit=8 y_limit={BATCH} y_step=1 y_count={BATCH} \
y_address_step=8 k_last=8
requantize wait=load,matrix signal=store zero_point={OUT_ZERO_POINT} a_y_step=1 y_count={BATCH} \
n_last=8 out_address=0x80 out_y_step=8 parameter_address=0x40
write_host wait=vector window=1 ub_address=0x80 run_bytes={BATCH * FEATURES}
halt
"""


def _weights() -> npt.NDArray[np.int8]:
    """int8 (8 inputs, 8 outputs): every value differs from its neighbours in both directions."""
    values = (np.arange(FEATURES * FEATURES) * 37 + 11) % 255 - 127
    return values.astype(np.int8).reshape(FEATURES, FEATURES)


def _bias() -> npt.NDArray[np.int32]:
    zero_point_term = -IN_ZERO_POINT * _weights().astype(np.int32).sum(axis=0)
    return np.asarray(np.arange(FEATURES) * 100 - 350 + zero_point_term, np.int32)


def tiny_model(*, host_segment: bool = False) -> CompiledModel:
    """The model: input `x` float32 (2, 8), output `y` float32 (2, 8).

    With `host_segment`, the output is `p` instead, the softmax of `y`, computed on the host.
    """
    multiplier, shift = normalize_multiplier(_FACTOR, "selftest")
    parameters = np.zeros((FEATURES, 8), np.uint8)
    parameters[:, :4] = _bias().astype("<i4").view(np.uint8).reshape(FEATURES, 4)
    parameters[:, 4:7] = np.frombuffer(multiplier.to_bytes(3, "little"), np.uint8)
    parameters[:, 7] = shift
    size = BATCH * FEATURES
    instructions = assemble(_CODE)
    program = make_program(
        PRESETS["nano"],
        instructions,
        weight_image=np.concatenate([_weights().view(np.uint8).reshape(-1), parameters.ravel()]),
        windows=(Window(name="input", size_bytes=size), Window(name="output", size_bytes=size)),
    )
    segment = MachineSegment(
        name="machine",
        program=program,
        inputs=(Binding(tensor="x_q", window="input", order=(0, 1)),),
        outputs=(Binding(tensor="y_q", window="output", order=(0, 1)),),
        layers=(
            LayerRange(
                layer="linear",
                first=0,
                count=len(instructions) - 1,
                tag=1,
                source_nodes=("linear",),
            ),
        ),
    )
    shape = (BATCH, FEATURES)
    kind = TensorType(dtype="float32", shape=shape)
    on_host = HostSegment(
        name="host",
        inputs=("y",),
        outputs=("p",),
        model=_softmax_model(shape),
        operators=("Softmax",),
        reason="Softmax is not an operation of the machine",
        source_nodes=("softmax",),
    )
    output = "p" if host_segment else "y"
    return CompiledModel(
        name="selftest",
        arch=PRESETS["nano"],
        segments=(segment, on_host) if host_segment else (segment,),
        tensors={
            "x_q": QTensor(
                name="x_q", shape=shape, scale=IN_SCALE, zero_point=IN_ZERO_POINT, source="x"
            ),
            "y_q": QTensor(
                name="y_q", shape=shape, scale=OUT_SCALE, zero_point=OUT_ZERO_POINT, source="y"
            ),
        },
        real={"x": kind, "y": kind, **({"p": kind} if host_segment else {})},
        inputs=(ModelInput(name="x"),),
        outputs=(ModelOutput(name=output, tensor=output),),
        report={"machine_layers": 1},
    )


def tiny_input() -> npt.NDArray[np.float32]:
    """An input of the tiny model, float32 (2, 8), that reaches both ends of the int8 range."""
    values = np.linspace(-4.5, 4.5, BATCH * FEATURES, dtype=np.float32)
    return values.reshape(BATCH, FEATURES)


def tiny_answer(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What every executor must give as `y` for `x`, float32 (n, 8) each, by exact arithmetic."""
    multiplier, shift = normalize_multiplier(_FACTOR, "selftest")
    q = quantize(x, IN_SCALE, IN_ZERO_POINT).astype(np.int64)
    products = (q @ _weights().astype(np.int64) + _bias()) * multiplier
    # Exact: a product stays far below 2**53, and dividing by a power of two does not round.
    rounded = np.rint(products / np.float64(2.0**shift)).astype(np.int64) + OUT_ZERO_POINT
    return dequantize(np.clip(rounded, -128, 127).astype(np.int8), OUT_SCALE, OUT_ZERO_POINT)


def _softmax_model(shape: tuple[int, ...]) -> bytes:
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["y"], ["p"], axis=1)],
        "host",
        [helper.make_tensor_value_info("y", real, shape)],
        [helper.make_tensor_value_info("p", real, shape)],
    )
    opsets = [helper.make_opsetid("", 13)]
    return canonical(helper.make_model(graph, opset_imports=opsets, ir_version=8))
