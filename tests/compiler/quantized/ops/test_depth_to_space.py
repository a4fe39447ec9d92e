"""Blocks of pixels from and to channels."""

import pytest

from node_cases import Case
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.moves.depth_to_space import PixelShuffle
from systol_hw.errors import InputError


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("shape", "block"), [
    ((2, 36, 4, 5), 2), ((1, 36, 4, 5), 3), ((1, 4, 1, 1), 2), ((1, 128, 9, 9), 2),
])
@pytest.mark.parametrize("widths", [8, 16])
def test_to_space(mode: str, shape: tuple[int, ...], block: int, widths: int) -> None:
    attributes = {"blocksize": block, "mode": mode}
    case = Case(op="DepthToSpace", inputs=(shape,), attributes=attributes, widths=widths)
    assert case.check(0.0).kinds == ["pixel_shuffle"]


@pytest.mark.parametrize(("shape", "block"), [((2, 3, 4, 6), 2), ((1, 1, 9, 3), 3)])
@pytest.mark.parametrize("widths", [8, 16])
def test_to_depth(shape: tuple[int, ...], block: int, widths: int) -> None:
    case = Case(
        op="SpaceToDepth", inputs=(shape,), attributes={"blocksize": block}, widths=widths
    )
    assert case.check(0.0).kinds == ["pixel_shuffle"]


def test_blocks_that_do_not_divide_are_refused() -> None:
    tensors = {n: QTensor(name=n, shape=(1, 6, 2, 2), scale=1.0, zero_point=0) for n in "xy"}
    layer = PixelShuffle(
        name="p", inputs=("x",), outputs=("y",), source_nodes=(), block=2, mode="DCR",
        reverse=False,
    )
    with pytest.raises(InputError, match="6 channels are not blocks of 2x2"):
        layer.verify(tensors)
