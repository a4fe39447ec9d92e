"""Matrix products of the fast values: weights, activations and sums through the matrix library.

A float32 product of int8 operands is exact while K * 128 * 128 <= 2**24, so up to 1,024 reduction
rows go to the matrix library at once. What was made of bytes that have not changed since is kept
within a budget.
"""

from collections.abc import Callable, Hashable

import numpy as np

from systol_hw.arch import Arch
from systol_sim.values.matrix_kernels import (
    add_counted,
    add_products,
    gather_rows,
    place_tiles,
    stays_within,
)
from systol_sim.values.matrix_plan import MatrixPlan, Product, Tiles

KEPT_BYTES = 40 << 20
"""Bytes that each kind of kept matrices may take."""

Interval = tuple[int, int]


class Kept:
    """float32 matrices by key, oldest first, each made from the bytes of an interval."""

    def __init__(self) -> None:
        self._matrices: dict[Hashable, tuple[np.ndarray, Interval]] = {}
        self._bytes = 0

    def find(self, key: Hashable) -> np.ndarray | None:
        """The matrix of `key`, if it is there."""
        found = self._matrices.get(key)
        return None if found is None else found[0]

    def get(
        self, key: Hashable, interval: Interval, make: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The matrix of `key`, made by `make` if it is not there."""
        found = self.find(key)
        if found is not None:
            return found
        matrix = make()
        if matrix.nbytes <= KEPT_BYTES:
            while self._bytes + matrix.nbytes > KEPT_BYTES:
                self._drop(next(iter(self._matrices)))
            self._matrices[key] = matrix, interval
            self._bytes += matrix.nbytes
        return matrix

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._matrices.pop(key)[0].nbytes

    def written(self, low: int, high: int) -> None:
        """Forget what was made from bytes low .. high - 1."""
        for key in [
            key
            for key, (_, (first, end)) in self._matrices.items()
            if first < high and low < end
        ]:
            self._drop(key)


class MatrixValues:
    """The weight FIFO and the accumulators.

    Parameters
    ----------
    plan
        Of the program.
    ub, weight
        uint8, the unified buffer and weight memory; their owner tells `written` of every change of
        the former.
    stepwise
        Sum tile by tile with counting, whatever bounds prove (a test's concern).
    """

    def __init__(
        self,
        arch: Arch,
        plan: MatrixPlan,
        ub: np.ndarray,
        weight: np.ndarray,
        *,
        stepwise: bool = False,
    ) -> None:
        self.arch, self.plan, self.stepwise = arch, plan, stepwise
        self.ub, self.weight = ub, weight
        self.accumulators = np.zeros((arch.accumulator_rows, arch.columns), np.int32)
        # A bound on the magnitude of what each row holds: spares the check for wraps.
        self._reach = np.zeros(arch.accumulator_rows, np.int64)
        self._copies: dict[int, np.ndarray] = {}
        """What Weights instructions read where something is written later."""
        self._rows, self._weights, self._products = Kept(), Kept(), Kept()
        self._made: set[Hashable] = set()
        """Batches that were made: one that is needed again lost its activations on the way."""

    def written(self, low: int, high: int) -> None:
        """Bytes low .. high - 1 of the unified buffer have changed."""
        self._rows.written(low, high)
        self._products.written(low, high)

    def load(self, pc: int) -> None:
        """Append the tiles of instruction `pc` to the weight FIFO."""
        tiles = self.plan.tiles[pc]
        if not tiles.constant:
            memory = self.ub if tiles.from_ub else self.weight
            self._copies[pc] = memory[tiles.low : tiles.high].copy()

    def _source(self, tiles: Tiles) -> np.ndarray:
        """The bytes that `tiles` counts its addresses in; those of constant tiles are there even
        before their instruction."""
        if tiles.constant:
            return self.weight[tiles.low : tiles.high]
        return self._copies[tiles.pc]

    def multiply(self, pc: int) -> int:
        """Execute matmul `pc`; returns the sums that left 32 bits."""
        product = self.plan.products[pc]
        overflows = 0
        for n, count in product.groups:
            for first, end in product.ranges:
                overflows += self._range(product, n, count, first, end)
        for loader, tile, begin, stop in product.sources:
            if tile + stop - begin == loader.total:
                self._copies.pop(loader.pc, None)
        return overflows

    def _range(self, product: Product, n: int, count: int, first: int, end: int) -> int:
        """Steps first .. end - 1 of column tiles n .. n + count - 1."""
        item, width = product.item, min(count * self.arch.columns, product.width)
        row, n_step = item["acc_address"] + n * item["acc_n_step"], item["acc_n_step"]
        factor = 256 ** item["accumulate_shift"]
        replace = first == 0 and product.replaces
        if not self.stepwise:
            growth = (product.tops[end] - product.tops[first] << 14) * factor
            within = self._within(product, row, count, growth, replace)
            if not within and factor > 1:
                # Never more than 128 times the sum of a column's magnitudes.
                weights = self._product_weights(product, n, width, first, end)
                growth = int(np.abs(weights).sum(axis=0).max()) * 128 * factor
                within = self._within(product, row, count, growth, replace)
            if within:
                sums, left = self._product(product, n, width, first, end)
                add_products(
                    self.accumulators, sums, left, width, row, n_step, factor, replace
                )
                return 0
        for tile in range(n, n + count):
            place = item["acc_address"] + tile * n_step
            self._reach[place : place + product.positions] = 1 << 31
        rows = self._product_rows(product, n, first, end)
        weights = self._product_weights(product, n, width, first, end)
        overflows = 0
        for step in range(first, end):
            k = slice(*(product.tops[s] - product.tops[first] for s in (step, step + 1)))
            overflows += add_counted(
                self.accumulators, rows[:, k] @ weights[k], 0, width, row, n_step, factor,
                replace and step == 0,
            )
        return int(overflows)

    def _within(
        self, product: Product, row: int, count: int, growth: int, replace: bool
    ) -> bool:
        return bool(stays_within(
            self._reach, row, product.item["acc_n_step"], count, product.positions,
            min(growth, 1 << 31), replace,
        ))

    def _product(
        self, product: Product, n: int, width: int, first: int, end: int
    ) -> tuple[np.ndarray, int]:
        """float32 sums (positions, columns), and the first column of this product."""
        batch = product.batch
        if len(batch.members) > 1:
            key = (id(batch), first, end)
            found = self._products.find(key)
            if found is None and key not in self._made:
                self._made.add(key)
                rows = self._product_rows(product, 0, first, end)
                weights = self._weights.get(
                    (batch.key, first, end), (0, 0), lambda: self._place_batch(product, first, end)
                )
                found = self._products.get(key, product.interval, lambda: rows @ weights)
            if found is not None:
                return found, product.left
        rows = self._product_rows(product, n, first, end)
        return rows @ self._product_weights(product, n, width, first, end), 0

    def _product_rows(self, product: Product, n: int, first: int, end: int) -> np.ndarray:
        """float32 (positions, live rows of the steps): the activations of column tile n."""

        def make() -> np.ndarray:
            live = product.tops[end] - product.tops[first]
            out = np.empty((product.positions, live), np.float32)
            gather_rows(self.ub, product.fields, n, first, end, self.arch.rows, out)
            return out

        offset = n * product.item["n_step"]
        low, high = product.interval
        if (low, high) != (0, 1 << 32):
            low, high = low + offset, high + offset
        return self._rows.get((product.rows_key, offset, first, end), (low, high), make)

    def _product_weights(
        self, product: Product, n: int, width: int, first: int, end: int
    ) -> np.ndarray:
        """float32 (live rows of the steps, width): the weights from column tile n on."""

        def make() -> np.ndarray:
            live = product.tops[end] - product.tops[first]
            out = np.zeros((live, width), np.float32)
            self._place(product, n, first, out, 0, width)
            return out

        if product.weights_key is None:
            return make()
        return self._weights.get((product.weights_key, n, first, end), (0, 0), make)

    def _place_batch(self, product: Product, first: int, end: int) -> np.ndarray:
        live = product.tops[end] - product.tops[first]
        out = np.zeros((live, product.batch.width), np.float32)
        for member in product.batch.members:
            self._place(member, 0, first, out, member.left, member.width)
        return out

    def _place(
        self, product: Product, n: int, first: int, out: np.ndarray, left: int, width: int
    ) -> None:
        item, arch = product.item, self.arch
        for loader, tile, begin, stop in product.sources:
            place_tiles(
                self._source(loader), loader.fields, tile, begin, stop, arch.rows, arch.columns,
                product.steps, item["k2_count"], item["k_last"], n, first, out, left, width,
            )
