"""The values of a valid program, computed in program order with exact matrix-library products.

A float32 product of int8 operands is exact while K * 128 * 128 <= 2**24, so up to 1,024 reduction
rows go to the matrix library at once. Shares no arithmetic with `systol_sim.reference`.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from systol_hw.arch import PARAMETER_BYTES
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, decode
from systol_hw.program import Program

EXACT_ROWS = 1 << 10
"""Reduction rows whose int8 products sum exactly in float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """Final memories, and per instruction the counts that depend on values.

    Parameters
    ----------
    ub, accumulators, weight, windows
        uint8 (ub_bytes,), int32 (accumulator_rows, columns), uint8, list of uint8.
    overflows, saturations
        int64 (instructions,).
    """

    ub: np.ndarray
    accumulators: np.ndarray
    weight: np.ndarray
    windows: list[np.ndarray]
    overflows: np.ndarray
    saturations: np.ndarray


def compute_values(program: Program, windows: list[np.ndarray]) -> Values:
    """Execute a valid `program` in program order; `windows` are changed in place."""
    return _Machine(program, windows).run()


_DECODED: WeakKeyDictionary[Program, list[Instruction]] = WeakKeyDictionary()


def _instructions(program: Program) -> list[Instruction]:
    """The instructions of `program`, decoded once: a program's arrays are never changed."""
    if program not in _DECODED:
        _DECODED[program] = [decode(word.tobytes()) for word in program.code]
    return _DECODED[program]


def _grid(*loops: tuple[int, int]) -> np.ndarray:
    """Offsets of nested (count, step) loops, outermost first: int64, one dimension each."""
    total = np.zeros((1,) * len(loops), np.int64)
    for axis, (count, step) in enumerate(loops):
        shape = [1] * len(loops)
        shape[axis] = count
        total = total + (np.arange(count, dtype=np.int64) * step).reshape(shape)
    return total


def _stack(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles of one column tile's reduction below each other; narrower ones padded with zeros."""
    live = max(tile.shape[1] for tile in tiles)
    if all(tile.shape[1] == live for tile in tiles):
        return np.concatenate(tiles)
    return np.concatenate([np.pad(tile, ((0, 0), (0, live - tile.shape[1]))) for tile in tiles])


class _Machine:
    def __init__(self, program: Program, windows: list[np.ndarray]) -> None:
        arch = program.arch
        self.program, self.arch, self.windows = program, arch, windows
        self.ub = np.zeros(arch.ub_bytes, np.uint8)
        self.accumulators = np.zeros((arch.accumulator_rows, arch.columns), np.int32)
        # A bound on every accumulator's magnitude, by row: spares the check for wraps.
        self.reach = np.zeros(arch.accumulator_rows, np.int64)
        self.weight = program.initial_weight_memory()
        self.tiles: list[np.ndarray] = []
        self.next_tile = 0
        self.overflows = np.zeros(len(program.code), np.int64)
        self.saturations = np.zeros(len(program.code), np.int64)

    def run(self) -> Values:
        for pc, item in enumerate(_instructions(self.program)):
            if item.unit in (Unit.LOAD, Unit.STORE):
                self._transfer(item)
            elif item.unit is Unit.WEIGHTS:
                self._read_tiles(item)
            elif item.unit is Unit.MATRIX:
                self._matmul(item, pc)
            elif item.unit is Unit.VECTOR:
                self._vector(item, pc)
        return Values(
            ub=self.ub,
            accumulators=self.accumulators,
            weight=self.weight,
            windows=self.windows,
            overflows=self.overflows,
            saturations=self.saturations,
        )

    def _transfer(self, item: Instruction) -> None:
        host = not item.operation.name.endswith("weight_memory")
        memory = self.windows[item["window"]] if host else self.weight
        loads = item.unit is Unit.LOAD
        run = item["run_bytes"]
        turns = [
            (
                item["memory_address"] + i * item["memory_stride1"] + j * item["memory_stride0"],
                item["ub_address"] + i * item["ub_stride1"] + j * item["ub_stride0"],
            )
            for i in range(item["count1"])
            for j in range(item["count0"])
        ]
        for outside, inside in turns:
            outside, inside = outside & 0xFFFFFFFF, inside & 0xFFFFFFFF
            if loads:
                self.ub[inside : inside + run] = memory[outside : outside + run]
            else:
                memory[outside : outside + run] = self.ub[inside : inside + run]

    def _read_tiles(self, item: Instruction) -> None:
        rows, columns, pitch = self.arch.rows, self.arch.columns, item["row_pitch"]
        signed = self.weight.view(np.int8)
        starts = item["address"] + _grid(
            (item["n_count"], item["n_stride"]),
            (item["outer_count"], item["outer_stride"]),
            (item["inner_count"], item["inner_stride"]),
        )
        for (n, _, inner), start in np.ndenumerate(starts):
            k_live = item["k_last"] if inner == item["inner_count"] - 1 else rows
            n_live = item["n_last"] if n == item["n_count"] - 1 else columns
            first = int(start) & 0xFFFFFFFF
            block = signed[first + pitch * np.arange(k_live)[:, None] + np.arange(n_live)]
            self.tiles.append(block)

    def _activations(self, item: Instruction, n: int) -> np.ndarray:
        """The rows of column tile `n`: int8 (y*x, K) over all live bytes of the k steps."""
        steps = (item["k0_count"], item["k1_count"], item["k2_count"])
        rows = self.arch.rows
        live = np.ones((*steps, rows), bool)
        live[:, :, -1, item["k_last"] :] = False
        element = np.arange(rows)
        k_shift = n * item["n_step"] + _grid(
            (steps[0], 0), (steps[1], item["k1_step"]), (steps[2], item["k2_step"])
        )[..., None]
        k_p = np.broadcast_to(k_shift + element, live.shape)[live]
        k_address = (
            k_shift + element + _grid((steps[0], item["k0_address_step"]), (1, 0), (1, 0), (1, 0))
        )
        k_address = np.broadcast_to(k_address, live.shape)[live]
        k_line = np.broadcast_to(
            _grid((steps[0], item["k0_step"]), (1, 0), (1, 0), (1, 0)), live.shape
        )[live]
        y_count, x_count = item["y_count"], item["x_count"]
        m_address = _grid((y_count, item["y_address_step"]), (x_count, item["x_step"])).ravel()
        m_p = np.broadcast_to(_grid((1, 0), (x_count, item["x_step"])), (y_count, x_count)).ravel()
        m_line = np.broadcast_to(_grid((y_count, item["y_step"]), (1, 0)), (y_count, x_count))
        p = (item["p_start"] + m_p)[:, None] + k_p
        line = (item["y_start"] + m_line.ravel())[:, None] + k_line
        inside = (line >= 0) & (line < item["y_limit"]) & (p >= 0) & (p < item["p_limit"])
        address = (item["ub_address"] + m_address)[:, None] + k_address
        memory: np.ndarray = self.ub.view(np.int8)
        if inside.all():
            rows_inside: np.ndarray = memory[address]
            return rows_inside
        gathered = memory[np.where(inside, address, 0)]
        return np.where(inside, gathered, np.int8(item["pad_value"]))

    def _matmul(self, item: Instruction, pc: int) -> None:
        steps = item["k0_count"] * item["k1_count"] * item["k2_count"]
        count = item["y_count"] * item["x_count"]
        activations: np.ndarray | None = None
        for n in range(item["n_count"]):
            tiles = self.tiles[self.next_tile : self.next_tile + steps]
            for place in range(self.next_tile, self.next_tile + steps):
                self.tiles[place] = np.zeros((0, 0), np.int8)
            self.next_tile += steps
            if activations is None or item["n_step"]:
                activations = self._activations(item, n)
            first = item["acc_address"] + n * item["acc_n_step"]
            target = self.accumulators[first : first + count]
            reach = self.reach[first : first + count]
            if not item["accumulate"]:
                target[:] = 0
                reach[:] = 0
            weights = _stack(tiles)
            live = weights.shape[1]
            growth = (1 << 14) * len(weights)
            if int(reach.max()) + growth < 1 << 31:
                for k in range(0, len(weights), EXACT_ROWS):
                    part = activations[:, k : k + EXACT_ROWS].astype(np.float32)
                    product = part @ weights[k : k + EXACT_ROWS].astype(np.float32)
                    target[:, :live] += product.astype(np.int32)
                reach += growth
            else:
                self._accumulate_stepwise(target, activations, tiles, pc)
                reach[:] = (1 << 31) - 1

    def _accumulate_stepwise(
        self, target: np.ndarray, activations: np.ndarray, tiles: list[np.ndarray], pc: int
    ) -> None:
        """As the machine does it, tile by tile, counting the additions that wrap."""
        k = 0
        for tile in tiles:
            part = activations[:, k : k + len(tile)].astype(np.float32)
            product = (part @ tile.astype(np.float32)).astype(np.int64)
            exact = target[:, : tile.shape[1]].astype(np.int64) + product
            wrapped = exact.astype(np.int32)
            self.overflows[pc] += np.count_nonzero(wrapped != exact)
            target[:, : tile.shape[1]] = wrapped
            k += len(tile)

    def _vector(self, item: Instruction, pc: int) -> None:
        columns, name = self.arch.columns, item.operation.name
        y_count, x_count = item["y_count"], item["x_count"]
        for n in range(item["n_count"]):
            live = item["n_last"] if n == item["n_count"] - 1 else columns
            if name == "fill":
                result = np.full((y_count * x_count, live), item["zero_point"], np.int64)
            else:
                result = self._window_maximum(item, n, live)
                if name == "requantize":
                    result = self._requantize(item, n, live, result, pc)
                result = np.clip(result, item["low"], item["high"])
            out = item["out_address"] + n * item["out_n_step"] + _grid(
                (y_count, item["out_y_step"]), (x_count, item["out_x_step"])
            )
            place = out.reshape(-1, 1) + np.arange(live)
            self.ub.view(np.int8)[place] = result.astype(np.int8)

    def _window_maximum(self, item: Instruction, n: int, live: int) -> np.ndarray:
        """int64 (y*x, live): the greatest tap inside the window, -2**31 without any."""
        y, x = np.arange(item["y_count"])[:, None], np.arange(item["x_count"])
        result = np.full((y.size * x.size, live), -(1 << 31), np.int64)
        base = item["a_address"] + n * item["a_n_step"] + y * item["a_y_step"]
        base = base + x * item["a_x_step"]
        for ky in range(item["ky_count"]):
            for kx in range(item["kx_count"]):
                line = item["y_start"] + y * item["y_step"] + ky * item["ky_step"]
                column = item["x_start"] + x * item["x_step"] + kx * item["kx_step"]
                inside = (line >= 0) & (line < item["y_limit"])
                inside = (inside & (column >= 0) & (column < item["x_limit"])).ravel()
                where = (base + ky * item["a_ky_step"] + kx * item["a_kx_step"]).ravel()[inside]
                if item["source_ub"]:
                    taps = self.ub.view(np.int8)[where[:, None] + np.arange(live)]
                else:
                    taps = self.accumulators[where, :live]
                result[inside] = np.maximum(result[inside], taps)
        return result

    def _requantize(
        self, item: Instruction, n: int, live: int, value: np.ndarray, pc: int
    ) -> np.ndarray:
        first = item["parameter_address"] + PARAMETER_BYTES * self.arch.columns * n
        raw = self.ub[first : first + PARAMETER_BYTES * live].reshape(live, PARAMETER_BYTES)
        bias = np.ascontiguousarray(raw[:, :4]).view("<i4").ravel().astype(np.int64)
        bits = raw[:, 4].astype(np.int64) | raw[:, 5].astype(np.int64) << 8
        bits |= (raw[:, 6].astype(np.int64) & 3) << 16
        multiplier = np.where(bits >= 1 << 17, bits - (1 << 18), bits)
        shift = raw[:, 7].astype(np.int64) & 63
        biased = value + bias
        wrapped = biased.astype(np.int32).astype(np.int64)
        self.overflows[pc] += np.count_nonzero(wrapped != biased)
        product = wrapped * multiplier
        quotient = product >> shift
        rest = product - (quotient << shift)
        # For shift 0 the rest is 0 and the half 1, so nothing is rounded.
        half = np.int64(1) << np.maximum(shift - 1, 0)
        quotient += (rest > half) | ((rest == half) & (quotient & 1 == 1))
        result = quotient + item["zero_point"]
        self.saturations[pc] += np.count_nonzero((result < -128) | (result > 127))
        saturated: np.ndarray = np.clip(result, -128, 127)
        return saturated
