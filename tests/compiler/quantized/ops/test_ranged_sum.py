"""Functions of sums over decades: precise in every range and at the seams between them."""

import numpy as np
import pytest

from operator_cases import built, layer_builder, real_of
from quantized_cases import evaluate
from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.reductions.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reductions.row_reduce import add_sum


@pytest.mark.parametrize(
    "steps",
    [
        (Step(op="Reciprocal"),),
        (Step(op="Log"),),
        (Step(op="Sqrt"), Step(op="Reciprocal", inputs=(1,))),
        (Step(op="Pow", inputs=(0, -0.75)),),
    ],
)
@pytest.mark.parametrize("greatest", [3.0, 100.0, 4000.0])
def test_follows_the_function(steps: tuple[Step, ...], greatest: float) -> None:
    """Sums of 5000 numbers of 16 bits that go from 1 to `greatest`, and beyond on both sides."""
    builder = layer_builder()
    rows, count = 5000, 400
    sums = np.geomspace(0.8, 1.3 * greatest, count)
    scale = float(np.float32(1.4 * greatest / rows / INT16_LIMIT))
    builder.tensors["x"] = QTensor(
        name="x", shape=(rows, count), scale=scale, zero_point=0, width=16
    )
    function = Expression(steps)
    ends = function.evaluate(np.array([1.0, greatest]))
    out = builder.inner((1, count), 1.05 * float(np.abs(ends).max()) / INT16_LIMIT, 0, 16)

    def add(part: QTensor, offset: float) -> None:
        add_sum(builder, builder.tensors["x"], part, (0,), offset=offset)

    add_ranged(builder, add, (1, count), steps, ranges(1.0, greatest), out, suffix="f")
    codes = np.floor(sums / scale / rows + np.arange(rows)[:, None] / rows).astype(np.int16)
    known = evaluate(built(builder, [out.name]), {"x": codes})
    exact = codes.astype(np.int64).sum(axis=0) * scale
    wanted = function.evaluate(np.clip(exact, 1.0, greatest))
    error = np.abs(real_of(out, known[out.name])[0] - wanted)
    # Interpolation, and a few roundings of 16 bits.
    assert (error <= 6e-4 * np.abs(wanted) + 4 * out.scale + 6e-4 * (steps[0].op == "Log")).all()
