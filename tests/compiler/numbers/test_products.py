"""Exact products against integer arithmetic."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.numbers.products import correlate, exact_product, rows_product

small = st.integers(1, 4)


@given(st.integers(1, 5), st.integers(1, 2000), st.sampled_from([128, 255, 32896]))
def test_products_are_exact(rows: int, length: int, magnitude: int) -> None:
    rng = np.random.default_rng(rows)
    a = rng.choice(np.array([-magnitude, magnitude, 3 - magnitude]), (rows, length))
    b = rng.choice(np.array([-128, 127, -127], np.int8), (length, 3))
    expected = a.astype(np.int64) @ b.astype(np.int64)
    assert (exact_product(a, b, magnitude) == expected).all()
    assert (rows_product(a, b, magnitude) == expected).all()


@given(st.data())
def test_correlation_is_its_definition(data: st.DataObject) -> None:
    draw = data.draw
    groups, per_group, per_output = draw(small), draw(small), draw(small)
    kernel, strides, dilations = (
        (draw(small), draw(small)), (draw(small), draw(small)), (draw(small), draw(small))
    )
    image, size = (draw(small), draw(small)), (draw(small), draw(small))
    pads = [draw(st.integers(max(-2, 1 - n), 3)) for n in image]
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    x = rng.integers(-128, 128, (2, *image, groups * per_group))
    weights = rng.integers(-127, 128, (groups * per_output, per_group, *kernel)).astype(np.int8)
    got = correlate(
        x, weights, size, strides=strides, dilations=dilations, pads=(pads[0], pads[1]),
        groups=groups, pad_value=-7,
    )
    for n, oy, ox, o in np.ndindex(got.shape):
        total = 0
        for c, ky, kx in np.ndindex(weights.shape[1:]):
            iy = oy * strides[0] - pads[0] + ky * dilations[0]
            ix = ox * strides[1] - pads[1] + kx * dilations[1]
            inside = 0 <= iy < image[0] and 0 <= ix < image[1]
            value = x[n, iy, ix, o // per_output * per_group + c] if inside else -7
            total += int(value) * int(weights[o, c, ky, kx])
        assert got[n, oy, ox, o] == total
