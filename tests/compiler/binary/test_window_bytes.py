"""Tensors in windows: any order of axes, both widths, there and back."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hand_made import quantized
from systol_compiler.binary.window_bytes import from_window, to_window, window_size


@given(st.data())
def test_there_and_back(data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, 5))
    shape = tuple(data.draw(st.integers(1, 5)) for _ in range(rank))
    order = data.draw(st.permutations(range(rank)))
    width = data.draw(st.sampled_from([8, 16]))
    tensor = quantized("t", shape, width=width)
    low, high = tensor.bounds
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = np.asarray(rng.integers(low, high + 1, shape), tensor.dtype)
    stored = to_window(codes, tensor, order)
    assert stored.dtype == np.uint8 and len(stored) == window_size(tensor)
    back = from_window(stored, tensor, order)
    assert back.dtype == tensor.dtype and back.flags.c_contiguous and back.flags.writeable
    np.testing.assert_array_equal(back, codes)


def test_images_lie_channels_last() -> None:
    codes = np.arange(12, dtype=np.int8).reshape(1, 3, 2, 2)
    stored = to_window(codes, quantized("t", codes.shape), (0, 2, 3, 1))
    assert stored.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_wide_values_are_two_balanced_planes(order: tuple[int, ...]) -> None:
    codes = np.array([[128, -129, 32639], [-32639, 0, 255]], np.int16)
    tensor = quantized("t", (2, 3), width=16)
    stored = to_window(codes, tensor, order)
    assert len(stored) == 64 + 6
    low, high = stored[:6].view(np.int8), stored[64:].view(np.int8)
    assert (stored[6:64] == 0).all()
    values = high.astype(int) * 256 + low
    assert values.tolist() == codes.transpose(order).reshape(-1).tolist()
