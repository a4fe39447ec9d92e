"""The fast paths give what whole numbers give."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.numbers.arithmetic import round_shift, saturate
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.pointwise import by_code, rounded, whole


@given(
    st.lists(st.integers(-(2**48), 2**48), min_size=1, max_size=20), st.integers(0, 63),
    st.integers(-128, 127), st.integers(-200, 200), st.integers(-200, 200),
    st.sampled_from([8, 16]), st.data(),
)
def test_rounding_is_that_of_whole_numbers(
    products: list[int], shift: int, zero_point: int, lo: int, hi: int, width: int,
    data: st.DataObject,
) -> None:
    # Ties: half a unit above some multiple.
    if shift:
        multiple = data.draw(st.integers(-200, 200))
        products = [*products, ((multiple << shift) + (1 << (shift - 1))) % (2**48)]
    exact = np.array(products, np.int64)
    expected = saturate(round_shift(exact, shift) + zero_point, lo, hi, width)
    got = rounded(exact.astype(np.float64), shift, zero_point, lo, hi, width)
    assert got.dtype == expected.dtype and (got == expected).all()


def test_shifts_by_element() -> None:
    products = np.array([[3, 5, -6], [2**40, -7, 1]])
    shifts = np.array([1, 2, 2])
    expected = saturate(round_shift(products, shifts), -128, 127)
    assert (rounded(products.astype(np.float64), shifts, 0, -128, 127) == expected).all()


def test_whole_numbers() -> None:
    codes = np.array([-128, 127], np.int8)
    assert whole(codes, -128).tolist() == [0, 255]


def test_functions_of_int8_are_computed_once_a_code() -> None:
    asked: list[int] = []

    def negated(codes: Array) -> Array:
        asked.append(codes.size)
        return -codes.astype(np.int16)

    codes = np.random.default_rng(0).integers(-128, 128, (30, 40)).astype(np.int8)
    assert (by_code(negated, codes[:, ::2]) == -codes[:, ::2].astype(np.int16)).all()
    assert (by_code(negated, codes.T) == -codes.T.astype(np.int16)).all()
    assert asked == [256, 256]
    wide = codes.astype(np.int16)
    assert (by_code(negated, wide) == -wide).all() and asked[-1] == wide.size
