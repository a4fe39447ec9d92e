"""Analytic cost of a stage: cycles of array, vector unit and weight port by number of bands."""

from collections.abc import Sequence
from dataclasses import replace

from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.vector import VectorNest
from systol_compiler.plan.tiling import Cut, ceil, column_tiles, reduction_steps
from systol_hw.arch import Arch

_BAND_CYCLES = 40
"""Start-up of one band's instructions."""
_VECTOR_BAND_CYCLES = 2000
"""Work of a band where the vector unit is alone: its loads and stores go on beside it."""
_MOST_BANDS = 64
_FINER_LOSS = 1.03
"""By how much a stage may take longer in smaller bands."""


def choose_bands(nests: Sequence[Nest], arch: Arch, cut: Cut) -> Cut:
    """`cut` with the number of bands in which the stage's units hide each other best.

    Few bands leave the vector unit's last one uncovered; many read weights too often. `cut.bands`
    times as many are taken, as far as that costs the array hardly anything: smaller bands need
    less room.
    """
    lines = nests[0].output.lines
    if not any(isinstance(nest, MatrixNest) for nest in nests):
        work = sum(vector_cycles(nest, arch) for nest in nests)
        return replace(cut, bands=max(1, min(lines, work // _VECTOR_BAND_CYCLES)))
    if lines == 1:
        return replace(cut, bands=1)
    counts = range(1, min(lines, _MOST_BANDS) + 1)
    choices = sorted({ceil(lines, ceil(lines, bands)) for bands in counts})
    best = min(choices, key=lambda bands: (stage_cycles(nests, arch, bands), bands))
    limit = stage_cycles(nests, arch, best) * _FINER_LOSS
    fine = [
        bands for bands in choices
        if best <= bands <= best * cut.bands and stage_cycles(nests, arch, bands) <= limit
    ]
    return replace(cut, bands=max(fine, default=best))


def stage_cycles(nests: Sequence[Nest], arch: Arch, bands: int) -> int:
    """Cycles of a stage of which every plane has at least `bands` bands."""
    array = vector = tail = weights = count = 0
    bandwidth = arch.weight_port.bytes_per_cycle
    for nest in nests:
        work = vector_cycles(nest, arch)
        vector += work
        if isinstance(nest, MatrixNest):
            turns, positions = _turns(nest, arch, bands)
            tiles = matrix_tiles(nest, arch)
            tile_bytes = 0
            if isinstance(nest.weights, StoredWeights):
                tile_bytes = nest.weights.values.size // max(tiles // len(nest.passes), 1)
            array += tiles * turns * max(positions, arch.rows, int(tile_bytes / bandwidth))
            weights += tiles * turns * tile_bytes
            count = max(count, turns)
            # Column tiles of one band are requantized one after another.
            tail = work // (turns * column_tiles(nest))
        else:
            tail += work // max(bands, 1)
    port = int(weights / bandwidth)
    return max(array, vector, port) + tail + _BAND_CYCLES * count * len(nests)


def _turns(nest: MatrixNest, arch: Arch, bands: int) -> tuple[int, int]:
    """Turns through all weights, and positions of each: as many rows as a bank holds."""
    rows, columns = nest.size
    most = max(1, arch.accumulator_bank_rows // max(columns, 1))
    height = min(ceil(rows, bands), most)
    pieces = ceil(columns * height, arch.accumulator_bank_rows)
    turns = nest.planes * ceil(rows, height) * pieces
    return turns, ceil(nest.planes * rows * columns, turns)


def matrix_tiles(nest: MatrixNest, arch: Arch) -> int:
    """Weight tiles of one turn through the reduction and all outputs."""
    places = nest.taps[0] * nest.taps[1]
    return places * reduction_steps(nest, arch) * column_tiles(nest) * len(nest.passes)


def vector_cycles(nest: Nest, arch: Arch) -> int:
    """Cycles of the lanes for a nest's results."""
    domain = nest.domain
    groups = ceil(nest.output.width, arch.columns)
    taps = 1
    if isinstance(nest, MatrixNest):
        groups, taps = column_tiles(nest), nest.pool.taps
        planes = 1
    else:
        assert isinstance(nest, VectorNest)
        taps = nest.window.taps
        planes = nest.a.byte_planes if nest.a is not None else 1
    rows = domain.size // max(nest.output.width, 1)
    slots = taps * planes + nest.output.byte_planes - 1
    return rows * groups * slots * arch.vector_slot_cycles


def array_cycles(nest: Nest, arch: Arch) -> int:
    """Cycles of the array for a nest, its planes taken whole; 0 of a vector nest."""
    if not isinstance(nest, MatrixNest):
        return 0
    turns, positions = _turns(nest, arch, 1)
    return matrix_tiles(nest, arch) * turns * max(positions, arch.rows)
