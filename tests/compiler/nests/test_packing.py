"""The search for packings of channels and kernel columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.nests.building.packing import Channels, Packing, choose, cycles, step_bytes
from systol_hw.arch import PRESETS


def channels(
    groups: int, per_group: int, per_output: int, kernel: int, positions: int, *,
    packed: bool = True, dilation: int = 1,
) -> Channels:
    return Channels(
        groups=groups, per_group=per_group, per_output=per_output, kernel=(kernel, kernel),
        dilation=dilation, positions=positions, packed=packed,
    )


@pytest.mark.parametrize(
    ("figures", "arch", "expected"),
    [
        # Dense convolutions fold whole kernel rows.
        (channels(1, 64, 64, 3, 3136), "edge32", Packing(groups=1, taps=3)),
        (channels(1, 64, 64, 3, 3136, packed=False), "edge32", Packing(groups=1, taps=1)),
        # Depthwise: as many channels as the array has rows; several taps where they fit.
        (channels(576, 1, 1, 3, 196), "edge32", Packing(groups=32, taps=1)),
        (channels(96, 1, 1, 3, 3136), "tpu-v1", Packing(groups=96, taps=3)),
        # Groups that fill the columns, and more than that.
        (channels(32, 4, 4, 3, 3136), "edge32", Packing(groups=8, taps=1)),
        (channels(3, 80, 80, 1, 784), "edge32", Packing(groups=1, taps=1, separate=True)),
        (channels(90, 2, 40, 3, 49), "nano", Packing(groups=1, taps=1, separate=True)),
    ],
)
def test_packings(figures: Channels, arch: str, expected: Packing) -> None:
    assert choose(figures, PRESETS[arch]) == expected


def test_a_depthwise_layer_costs_a_fraction_of_a_dense_one() -> None:
    figures, arch = channels(576, 1, 1, 3, 196), PRESETS["edge32"]
    dense = cycles(figures, Packing(groups=576, taps=3), arch)
    assert cycles(figures, choose(figures, arch), arch) < dense / 14


@given(
    st.integers(1, 200), st.integers(1, 9), st.integers(1, 9), st.integers(1, 7),
    st.integers(1, 4000), st.booleans(), st.integers(1, 3), st.sampled_from(sorted(PRESETS)),
)
def test_the_choice_is_never_worse_than_dense(
    groups: int, per_group: int, per_output: int, kernel: int, positions: int, packed: bool,
    dilation: int, name: str,
) -> None:
    arch = PRESETS[name]
    figures = channels(
        groups, per_group, per_output, kernel, positions, packed=packed, dilation=dilation
    )
    packing = choose(figures, arch)
    dense = Packing(groups=groups, taps=kernel if packed and dilation == 1 else 1)
    assert cycles(figures, packing, arch) <= cycles(figures, dense, arch)
    assert packed or packing.taps == 1
    if packing.groups < groups and not packing.separate:
        assert packing.groups * per_output <= arch.columns
        assert packing.taps == 1 or step_bytes(figures, packing) <= arch.rows
