"""Lays out weight memory: parameters and tables, constant operands, then weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.plan.tiling import column_tiles
from systol_hw.arch import Arch

_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class WeightPlace:
    """Where a nest's weights lie in weight memory: tile rows of `pitch` bytes.

    The tile of column tile n and reduction row k begins at `address + n * tile_stride + k * pitch`.
    """

    address: int
    pitch: int
    tile_stride: int


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightImage:
    """Weight memory without the code.

    `constants` are addresses by buffer, `weights` by nest. The first `pinned_bytes` hold what the
    plan loads at once.
    """

    data: npt.NDArray[np.uint8]
    constants: Mapping[str, int]
    weights: Mapping[str, WeightPlace]

    @property
    def end(self) -> int:
        """The first byte behind the image, aligned: where streamed buffers have their homes."""
        return -(-max(1, self.data.size) // _ALIGNMENT) * _ALIGNMENT


def build_weight_image(
    network: LoweredNetwork, arch: Arch, pinned: Mapping[str, int]
) -> WeightImage:
    """Lay out constants and weights in the order in which nests use them.

    `pinned` are offsets of constants that must lie so, from address 0 on. A tile row is one run of
    the weight port. Its pitch is a multiple of the port's width, or a power of two below it, so
    that no row touches more aligned words than it must. Equal weights lie there once.
    """
    constants, end = dict(pinned), 0
    for name in pinned:
        end = max(end, constants[name] + network.buffers[name].size_bytes)
    for buffer in network.of_home(Home.CONSTANT):
        if buffer.name not in constants:
            end = _aligned(end, _ALIGNMENT)
            constants[buffer.name] = end
            end += buffer.size_bytes
    nests = [
        nest for nest in network.nests
        if isinstance(nest, MatrixNest) and isinstance(nest.weights, StoredWeights)
    ]
    places: dict[str, WeightPlace] = {}
    known: dict[tuple[int, int], WeightPlace] = {}
    for nest in nests:
        assert isinstance(nest.weights, StoredWeights)
        key = (id(nest.weights.values), nest.tile_outputs)
        if key not in known:
            end = _aligned(end, max(_ALIGNMENT, arch.burst_bytes))
            known[key] = _place(nest, nest.weights, end, arch)
            end += column_tiles(nest) * known[key].tile_stride
        places[nest.name] = known[key]
    data = np.zeros(end, np.uint8)
    for name, address in constants.items():
        values = network.buffers[name].data
        assert values is not None, name
        data[address : address + values.size] = values
    written: set[int] = set()
    for nest in nests:
        place = places[nest.name]
        if place.address not in written:
            written.add(place.address)
            _write(data, nest, place)
    return WeightImage(data=data, constants=constants, weights=places)


def _aligned(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _place(nest: MatrixNest, weights: StoredWeights, address: int, arch: Arch) -> WeightPlace:
    live, width = min(nest.outputs, nest.tile_outputs), arch.weight_port.width_bytes
    pitch = -(-live // width) * width if live >= width else 1 << (live - 1).bit_length()
    return WeightPlace(
        address=address, pitch=pitch, tile_stride=weights.values.shape[0] * pitch
    )


def _write(data: npt.NDArray[np.uint8], nest: MatrixNest, place: WeightPlace) -> None:
    assert isinstance(nest.weights, StoredWeights)
    values = nest.weights.values
    tiles = column_tiles(nest)
    end = place.address + tiles * place.tile_stride
    stored = data[place.address : end].view(np.int8).reshape(tiles, values.shape[0], place.pitch)
    for tile in range(tiles):
        columns = values[:, tile * nest.tile_outputs : (tile + 1) * nest.tile_outputs]
        stored[tile, :, : columns.shape[1]] = columns
