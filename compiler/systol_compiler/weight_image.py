"""Lays out weight memory: parameters of all works, then their weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systol_compiler.work import LoweredNetwork, MatrixWork
from systol_hw.arch import Arch


@dataclass(frozen=True, kw_only=True)
class WeightPlace:
    """Where a work's weights lie in weight memory: tile rows of `pitch` bytes.

    The tile of column tile n and reduction row k begins at `address + n * tile_stride + k * pitch`.
    """

    address: int
    pitch: int
    tile_stride: int


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightImage:
    """Weight memory without the code: parameters of all works, then their weights.

    `parameters` and `weights` are by work name; `parameter_bytes` is the size of the part at the
    front that holds all parameters.
    """

    data: npt.NDArray[np.uint8]
    parameters: Mapping[str, int]
    parameter_bytes: int
    weights: Mapping[str, WeightPlace]

    @property
    def end(self) -> int:
        """The first byte behind the image, aligned: where spilled buffers begin."""
        return -(-max(1, self.data.size) // 64) * 64


def build_weight_image(network: LoweredNetwork, arch: Arch) -> WeightImage:
    """Lay out parameters and weights in the order in which layers use them.

    A tile row is one run of the weight port. Its pitch is a multiple of the port's width, or a
    power of two below it, so that no row touches more aligned words than it must.
    """
    works = [work for work in network.works if isinstance(work, MatrixWork)]
    parts: list[npt.NDArray[np.uint8]] = []
    parameters: dict[str, int] = {}
    end = 0
    for work in works:
        parameters[work.name] = end
        parts.append(work.parameters())
        end += parts[-1].size
    parameter_bytes = end
    places: dict[str, WeightPlace] = {}
    width = arch.weight_port.width_bytes
    for work in works:
        padding = -end % max(64, arch.burst_bytes)
        parts.append(np.zeros(padding, np.uint8))
        end += padding
        live = min(work.out_channels, arch.columns)
        pitch = -(-live // width) * width if live >= width else 1 << (live - 1).bit_length()
        tiles = -(-work.out_channels // arch.columns)
        reduction = work.weights.reshape(-1, work.out_channels)
        stored = np.zeros((tiles, len(reduction), pitch), np.int8)
        for tile in range(tiles):
            columns = reduction[:, tile * arch.columns : (tile + 1) * arch.columns]
            stored[tile, :, : columns.shape[1]] = columns
        places[work.name] = WeightPlace(
            address=end, pitch=pitch, tile_stride=len(reduction) * pitch
        )
        parts.append(stored.reshape(-1).view(np.uint8))
        end += stored.size
    data = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return WeightImage(
        data=data, parameters=parameters, parameter_bytes=parameter_bytes, weights=places
    )
