"""Functions of sums whose range spans decades: reciprocals, logarithms and roots, precisely.

The machine interpolates between 257 knots at equal distances, which is coarse where a function is
steep: 1/s of a sum from 1 to 1000 has two knots below 8. So the sum is taken several times, each
time scaled to one range, with saturation on both sides, and looked up in a table of its own. For
ranges lo[0] < hi[0] = lo[1] < hi[1] = ... the parts

    f(clip(s, lo[i], hi[i])) - f(hi[i]),   the last one without its subtrahend,

add up to f(s): parts below the range of s are 0, those above it are differences that telescope.
"""

import itertools
from collections.abc import Callable, Sequence
from math import ceil, log

from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.pointwise.table import add_table

_RATIO = 12.0
"""Widest range: 1/s, the steepest of them, is then off by 5e-4 of itself at most."""

AddSum = Callable[[QTensor, float], None]
"""Adds the layer that gives a tensor the sum less an offset, both real."""


def ranges(least: float, greatest: float, ratio: float = _RATIO) -> list[tuple[float, float]]:
    """Ranges of equal ratio, at most `ratio`, from `least` (above 0) to `greatest`; a single one
    that is not empty where the two are equal."""
    greatest = greatest if greatest > least else 1.5 * least
    count = max(ceil(log(greatest / least, ratio) - 1e-9), 1)
    edges = [least * (greatest / least) ** (i / count) for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def add_ranged(
    builder: LayerBuilder, add_sum: AddSum, shape: tuple[int, ...], steps: Sequence[Step],
    spans: Sequence[tuple[float, float]], out: QTensor, *, suffix: str,
) -> None:
    """Add the layers out = f(sum), `steps` being those of f, monotone over `spans`.

    `add_sum` is called once for each range, with a 16-bit tensor of `shape`; `out` has 16 bits.
    """
    total: QTensor | None = None
    for place, (low, high) in enumerate(spans):
        middle, reach = (low + high) / 2, (high - low) / 2
        part = builder.inner(shape, reach / INT16_LIMIT, 0, 16)
        add_sum(part, middle)
        shifted = (Step(op="Add", inputs=(0, middle)), *(_later(step) for step in steps))
        if place < len(spans) - 1:
            end = float(Expression(tuple(steps)).evaluate(high))  # type: ignore[arg-type]
            shifted = (*shifted, Step(op="Add", inputs=(len(shifted), -end)))
        alone = total is None and place == len(spans) - 1
        value = out if alone else builder.inner(shape, out.scale, 0, 16)
        add_table(builder, Expression(shifted), part, value, suffix=suffix)
        if total is not None:
            last = place == len(spans) - 1
            both = out if last else builder.inner(shape, out.scale, 0, 16)
            add_elementwise(builder, "Add", total, value, both, suffix=suffix)
            value = both
        total = value


def _later(step: Step) -> Step:
    """`step` behind one more step: its variable is the first one's result."""
    inputs = tuple(i + 1 if isinstance(i, int) else i for i in step.inputs)
    return Step(op=step.op, inputs=inputs, attributes=step.attributes)
