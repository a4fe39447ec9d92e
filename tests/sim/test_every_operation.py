"""Every operation with random fields: the executors and the footprint against plain loops.

The loops are those of the instruction table's text, one byte at a time, on the exact oracle.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import oracle
from systol_hw.arch import Arch
from systol_hw.isa import Instruction, decode, instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit
from systol_sim import reference
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.validity.footprint import ACCUMULATORS, UB, WEIGHT, WINDOW, footprint
from systol_sim.values.program_values import compute_values

WEIGHT_BYTES = 700
WINDOW_BYTES = 500
WINDOWS = tuple(Window(name=f"w{n}", size_bytes=WINDOW_BYTES) for n in range(16))
MACHINES = tuple(arch for arch in FUZZ_MACHINES if arch.ub_bytes >= 1024)
"""Those that hold a table with interpolation and something to look up."""
SPACE = 1 << 32
Places = set[tuple[int, int]]


class Loops:
    """The machine, one byte after another, and the places that the last instruction touched."""

    def __init__(self, arch: Arch, ub: bytes, weight: np.ndarray, windows: list[bytes]) -> None:
        self.arch = arch
        self.memory = {UB: bytearray(ub), WEIGHT: bytearray(weight.tobytes())}
        self.memory |= {WINDOW + n: bytearray(content) for n, content in enumerate(windows)}
        self.accumulators = [[0] * arch.columns for _ in range(arch.accumulator_rows)]
        self.tiles: list[tuple[list[list[int]], int, int]] = []
        self.amounts = {(amount.unit, amount.name): 0 for amount in AMOUNTS}
        self.interrupts: list[int] = []
        self.status = 0
        self.reads: Places = set()
        self.writes: Places = set()

    def load(self, space: int, address: int) -> int:
        self.reads.add((space, address % SPACE))
        return self.memory[space][address % SPACE]

    def store(self, space: int, address: int, byte: int) -> None:
        self.writes.add((space, address % SPACE))
        self.memory[space][address % SPACE] = byte

    def step(self, i: Instruction) -> None:
        self.reads, self.writes = set(), set()
        name = i.operation.name
        if name in ("interrupt", "sync_host"):
            self.interrupts.append(i["value"])
        elif name == "set_config":
            self.status = i["value"] if i["register"] == 1 else self.status
        elif i.unit in (Unit.LOAD, Unit.STORE):
            self.transfer(i)
        elif i.unit is Unit.WEIGHTS:
            self.weights(i)
        elif name == "matmul":
            self.matmul(i)
        elif i.unit is Unit.VECTOR:
            self.vector(i)

    def transfer(self, i: Instruction) -> None:
        space = WEIGHT
        if "window" in i.fields:
            space = WINDOW + i["window"] + 8 * ("alternate" in i.operation.name)
        for turn, run, b in loops(i, "count1", "count0", "run_bytes"):
            there = i["memory_address"] + turn * i["memory_stride1"] + run * i["memory_stride0"] + b
            here = i["ub_address"] + turn * i["ub_stride1"] + run * i["ub_stride0"] + b
            if i.unit is Unit.LOAD:
                self.store(UB, here, self.load(space, there))
            else:
                self.store(space, there, self.load(UB, here))
            self.amounts[i.unit, "weight_bytes" if space == WEIGHT else "host_bytes"] += 1

    def weights(self, i: Instruction) -> None:
        space = UB if i.operation.name == "read_weights_ub" else WEIGHT
        for n, outer, inner in loops(i, "n_count", "outer_count", "inner_count"):
            n_live = i["n_last"] if n == i["n_count"] - 1 else self.arch.columns
            k_live = i["k_last"] if inner == i["inner_count"] - 1 else self.arch.rows
            first = i["address"] + n * i["n_stride"] + outer * i["outer_stride"]
            first += inner * i["inner_stride"]
            tile = [[0] * self.arch.columns for _ in range(self.arch.rows)]
            for r, c in itertools.product(range(k_live), range(n_live)):
                line, place = (c, r) if i["transpose"] else (r, c)
                byte = self.load(space, first + line * i["row_pitch"] + place)
                tile[r][c] = oracle.activation(byte, unsigned=False)
                self.amounts[Unit.WEIGHTS, "ub_bytes" if space == UB else "weight_bytes"] += 1
            self.tiles.append((tile, k_live, n_live))

    def matmul(self, i: Instruction) -> None:
        for n, k0, k1, k2 in loops(i, "n_count", "k0_count", "k1_count", "k2_count"):
            tile, k_live, n_live = self.tiles.pop(0)
            live = i["k_last"] if k2 == i["k2_count"] - 1 else self.arch.rows
            assert live == k_live
            for y, x in loops(i, "y_count", "x_count"):
                along = n * i["n_step"] + k1 * i["k1_step"] + k2 * i["k2_step"] + x * i["x_step"]
                across = k0 * i["k0_address_step"] + y * i["y_address_step"]
                line = i["y_start"] + k0 * i["k0_step"] + y * i["y_step"]
                row = []
                for b in range(live):
                    p = i["p_start"] + along + b
                    inside = 0 <= line < i["y_limit"] and 0 <= p < i["p_limit"]
                    self.amounts[Unit.MATRIX, "padding_macs"] += 0 if inside else n_live
                    self.amounts[Unit.MATRIX, "useful_macs"] += n_live
                    row.append(
                        oracle.activation(
                            self.load(UB, i["ub_address"] + along + across + b),
                            unsigned=bool(i["unsigned_activations"]),
                        )
                        if inside
                        else i["pad_value"]
                    )
                place = i["acc_address"] + n * i["acc_n_step"] + y * i["x_count"] + x
                self.accumulate(i, place, row, tile, first=not (k0 or k1 or k2))

    def accumulate(self, i: Instruction, place: int, row: list[int], tile: list[list[int]], *,
                   first: bool) -> None:
        self.writes.add((ACCUMULATORS, place))
        if i["accumulate"]:
            self.reads.add((ACCUMULATORS, place))
        target = self.accumulators[place]
        for c in range(self.arch.columns):
            base = 0 if first and not i["accumulate"] else target[c]
            total = oracle.dot(row, [tile[r][c] for r in range(len(row))])
            result = oracle.accumulate(base, total, i["accumulate_shift"])
            target[c] = result.value
            self.amounts[Unit.MATRIX, "overflows"] += result.overflowed

    def operand(self, i: Instruction, name: str, address: int) -> int:
        low = self.load(UB, address)
        if not i[f"{name}_width"]:
            return oracle.activation(low, unsigned=False)
        return oracle.join_planes(low, self.load(UB, address + 64 * i[f"{name}_plane_step"]))

    def vector(self, i: Instruction) -> None:
        knots = self.knots(i) if i.operation.name == "table" else []
        for n in range(i["n_count"]):
            live = i["n_last"] if n == i["n_count"] - 1 else self.arch.columns
            parameters = self.parameters(i, n, live)
            for y, x in loops(i, "y_count", "x_count"):
                at = {
                    name: i[f"{name}_address"] + n * i[f"{name}_n_step"]
                    + y * i[f"{name}_y_step"] + x * i[f"{name}_x_step"]
                    for name in ("a", "b", "out")
                    if f"{name}_address" in i.fields
                }
                row = [self.element(i, y, x, c, at, parameters, knots) for c in range(live)]
                if i["width"] == 1:
                    planes = [[oracle.split_planes(v)[p] for v in row] for p in range(2)]
                else:
                    planes = [[v >> 8 * p & 255 for v in row] for p in range((1, 0, 4)[i["width"]])]
                for plane, values in enumerate(planes):
                    for c, byte in enumerate(values):
                        self.store(UB, at["out"] + 64 * i["out_plane_step"] * plane + c, byte)
                self.amounts[Unit.VECTOR, "elements"] += live

    def knots(self, i: Instruction) -> list[int]:
        if not i["table_width"]:
            return [oracle.activation(self.load(UB, i["table_address"] + e), unsigned=False)
                    for e in range(256)]
        data = [self.load(UB, i["table_address"] + b) for b in range(514)]
        return [int.from_bytes(bytes(data[e : e + 2]), "little", signed=True)
                for e in range(0, 514, 2)]

    def parameters(self, i: Instruction, n: int, live: int) -> list[tuple[int, int, int]]:
        if i.operation.name != "requantize":
            return []
        mean = i["reduce"] == 2
        first = i["parameter_address"] + (0 if mean else 8 * self.arch.columns * n)
        found = []
        for entry in range(i["parameter_count"] if mean else live):
            data = bytes(self.load(UB, first + 8 * entry + b) for b in range(8))
            multiplier = int.from_bytes(data[4:7], "little") & 0x3FFFF
            multiplier -= (multiplier >> 17) << 18
            found.append((int.from_bytes(data[:4], "little", signed=True), multiplier,
                          data[7] & 63))
        return found

    def element(self, i: Instruction, y: int, x: int, c: int, at: dict[str, int],
                parameters: list[tuple[int, int, int]], knots: list[int]) -> int:
        name = i.operation.name
        if name == "fill":
            return i["zero_point"]
        end = {key: i[key] for key in ("zero_point", "low", "high", "width")}
        if name == "table":
            result = oracle.table(self.operand(i, "a", at["a"] + c), knots,
                                  value_width=i["a_width"], shift=i["shift"], **end)
        elif name == "binary":
            result = oracle.binary(
                self.operand(i, "a", at["a"] + c), self.operand(i, "b", at["b"] + c),
                function=i["function"], multipliers=(i["a_multiplier"], i["b_multiplier"]),
                zero_points=(i["a_zero_point"], i["b_zero_point"]), shift=i["shift"], **end,
            )
        else:
            taps = self.taps(i, y, x, c, at["a"])
            value = oracle.reduce(taps, maximum=i["reduce"] == 0)
            if name == "copy":
                return oracle.copy(value, low=i["low"], high=i["high"], width=i["width"])
            chosen = c
            if i["reduce"] == 2:
                chosen = oracle.parameter_index(len(taps), i["parameter_count"])
            bias, multiplier, shift = parameters[chosen]
            result = oracle.requantize(value, bias=bias, multiplier=multiplier, shift=shift, **end)
        self.amounts[Unit.VECTOR, "saturations"] += result.saturated
        self.amounts[Unit.VECTOR, "overflows"] += result.overflowed
        return result.value

    def taps(self, i: Instruction, y: int, x: int, c: int, first: int) -> list[int]:
        found = []
        for ky, kx in loops(i, "ky_count", "kx_count"):
            line = i["y_start"] + y * i["y_step"] + ky * i["ky_step"]
            column = i["x_start"] + x * i["x_step"] + kx * i["kx_step"]
            if not (0 <= line < i["y_limit"] and 0 <= column < i["x_limit"]):
                continue
            place = first + ky * i["a_ky_step"] + kx * i["a_kx_step"]
            if i["source_ub"]:
                found.append(self.operand(i, "a", place + c))
            else:
                self.reads.add((ACCUMULATORS, place % SPACE))
                found.append(self.accumulators[place % SPACE][c])
        return found


def loops(i: Instruction, *names: str) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(i[name]) for name in names))


# Random instructions

LOAD_OPERATIONS = ("read_host", "read_host_alternate", "read_weight_memory")
STORE_OPERATIONS = ("write_host", "write_host_alternate", "write_weight_memory")
VECTOR_OPERATIONS = ("requantize", "copy", "fill", "binary", "table")


class Draws:
    """Instructions whose accesses stay inside the memories."""

    def __init__(self, arch: Arch, seed: int) -> None:
        self.arch, self.rng = arch, random.Random(f"{arch.name} {seed}")
        self.sizes = {UB: arch.ub_bytes, ACCUMULATORS: arch.accumulator_rows, WEIGHT: WEIGHT_BYTES}
        self.sizes |= {WINDOW + n: WINDOW_BYTES for n in range(16)}

    def fitting(self, item: Instruction) -> bool:
        found = footprint(item, self.arch)
        inside = all(r.last < self.sizes[r.space] for r in (*found.reads, *found.writes))
        alias = item.unit is Unit.VECTOR and any(
            found.writes[0].overlap(region) is not None for region in found.reads
        )
        return inside and not alias

    def until_fitting(self, name: str) -> Instruction:
        draw = self._vector_fields if name in VECTOR_OPERATIONS else self._transfer_fields
        while True:
            item = instruction(name, **draw(name))
            if self.fitting(item):
                return item

    def _step(self, span: int) -> int:
        return self.rng.choice((0, 1, span, self.rng.randint(-span, span)))

    def _transfer_fields(self, name: str) -> dict[str, int]:
        rng = self.rng
        fields = {
            "memory_address": rng.randrange(WINDOW_BYTES), "ub_address": self._place(),
            "run_bytes": rng.randint(1, 9), "count0": rng.randint(1, 3),
            "count1": rng.randint(1, 3), "memory_stride0": self._step(40),
            "memory_stride1": self._step(90), "ub_stride0": self._step(20),
            "ub_stride1": self._step(60),
        }
        if "host" in name:
            fields["window"] = rng.randrange(8)
        return fields

    def _place(self) -> int:
        return self.rng.randrange(min(self.arch.ub_bytes, 1500))

    def _vector_fields(self, name: str) -> dict[str, int]:
        rng, arch = self.rng, self.arch
        source_ub = int(name in ("binary", "table") or rng.random() < 0.6)
        width = rng.randrange(3 if name in ("copy", "fill") else 2)
        fields = {
            "a_width": rng.randrange(2) if name != "fill" else 0, "width": width,
            "zero_point": rng.randint(-128, 127), "low": self._clip(-1, width),
            "high": self._clip(1, width), "n_count": rng.randint(1, 2),
            "n_last": rng.randint(1, arch.columns), "y_count": rng.randint(1, 3),
            "x_count": rng.randint(1, 3), "a_plane_step": rng.randrange(6),
            "out_plane_step": rng.randrange(6), "out_address": self._place(),
            "out_n_step": self._step(arch.columns), "out_y_step": self._step(60),
            "out_x_step": self._step(2 * arch.columns),
        }
        span = 60 if source_ub else 6
        fields |= {
            "a_address": self._place() if source_ub else rng.randrange(arch.accumulator_rows),
            "a_n_step": self._step(span), "a_y_step": self._step(span),
            "a_x_step": self._step(span),
        }
        if name == "binary":
            fields |= self._binary_fields()
        elif name == "table":
            fields |= {"table_width": rng.randrange(2), "table_address": self._place(),
                       "shift": rng.choice((8, 8, 8 + 8 * (1 - width), rng.randrange(64)))}
        else:
            fields |= {"source_ub": source_ub}
            if name != "fill":
                fields |= self._window_fields(name, span)
        return fields

    def _clip(self, side: int, width: int) -> int:
        limit = 32767 if width else 127
        within = self.rng.randint(-limit - 1, limit)
        return self.rng.choice((side * limit, side * limit, side * abs(within), within))

    def _window_fields(self, name: str, span: int) -> dict[str, int]:
        rng = self.rng
        fields = {
            "reduce": rng.randrange(3 if name == "requantize" else 2),
            "ky_count": rng.randint(1, 3), "kx_count": rng.randint(1, 3),
            "a_ky_step": self._step(span), "a_kx_step": self._step(span),
            "y_start": rng.randint(-3, 2), "x_start": rng.randint(-3, 2),
            "y_limit": rng.randrange(8), "x_limit": rng.randrange(8), "y_step": rng.randrange(3),
            "x_step": rng.randrange(3), "ky_step": rng.randrange(3), "kx_step": rng.randrange(3),
        }
        if name == "requantize":
            fields |= {"parameter_address": self._place(),
                       "parameter_count": rng.randint(1, self.arch.columns)}
        return fields

    def _binary_fields(self) -> dict[str, int]:
        rng = self.rng

        def multiplier() -> int:
            return rng.choice((1, -1, -(1 << 17), (1 << 17) - 1, rng.randint(-300, 300)))

        return {
            "function": rng.randrange(4), "b_width": rng.randrange(2),
            "a_zero_point": rng.randint(-128, 127), "b_zero_point": rng.randint(-128, 127),
            "a_multiplier": multiplier(), "b_multiplier": multiplier(),
            "shift": rng.choice((0, 1, rng.randrange(64), rng.randrange(20))),
            "b_address": self._place(), "b_n_step": self._step(60), "b_y_step": self._step(60),
            "b_x_step": self._step(60), "b_plane_step": rng.randrange(6),
        }

    def product(self) -> list[Instruction]:
        """A Weights instruction and the matmul that takes its tiles."""
        while True:
            pair = self._product()
            if all(map(self.fitting, pair)):
                return pair

    def _product(self) -> list[Instruction]:
        rng, arch = self.rng, self.arch
        n, k0, k1, k2 = (rng.choice((1, 1, 2)) for _ in range(4))
        k_last = rng.randint(1, arch.rows)
        from_ub = rng.random() < 0.5
        load = instruction(
            "read_weights_ub" if from_ub else "read_weights", transpose=rng.randrange(2),
            address=self._place() if from_ub else rng.randrange(WEIGHT_BYTES),
            row_pitch=rng.choice((arch.columns, arch.rows, rng.randrange(20))), n_count=n,
            outer_count=k0 * k1, inner_count=k2, n_stride=self._step(70),
            outer_stride=self._step(60), inner_stride=self._step(50), k_last=k_last,
            n_last=rng.randint(1, arch.columns),
        )
        matmul = instruction(
            "matmul", accumulate=rng.randrange(2), unsigned_activations=rng.randrange(2),
            accumulate_shift=rng.randrange(3), pad_value=rng.randint(-128, 127),
            ub_address=rng.randint(-9, 300), p_start=rng.randint(-9, 9),
            p_limit=rng.randrange(40), y_start=rng.randint(-2, 2), y_limit=rng.randrange(5),
            x_count=rng.randint(1, 3), y_count=rng.randint(1, 3), k2_count=k2, k1_count=k1,
            k0_count=k0, n_count=n, x_step=self._step(9), k2_step=self._step(12),
            k1_step=self._step(9), n_step=self._step(9), y_step=rng.randrange(3),
            k0_step=rng.randrange(3), y_address_step=self._step(30),
            k0_address_step=self._step(30), k_last=k_last,
            acc_address=rng.randrange(arch.accumulator_rows), acc_n_step=rng.randrange(10),
        )
        return [load, matmul]


def draw_program(arch: Arch, seed: int, names: tuple[str, ...]) -> tuple[Program, list[bytes]]:
    """A valid program that fills the buffer, makes products and then does `names`."""
    draws = Draws(arch, seed)
    rng = np.random.default_rng(seed)
    # Bytes at the ends of their range more often than chance would have them.
    ends = rng.choice(np.array([128, 127, 255, 0], np.uint8), (16, WINDOW_BYTES))
    random_bytes = rng.integers(0, 256, (16, WINDOW_BYTES), np.uint8)
    content = np.where(rng.random((16, 1)) < 0.3, ends, random_bytes)
    items = [
        instruction("read_host", window=n % 8, ub_address=first,
                    run_bytes=min(WINDOW_BYTES, arch.ub_bytes - first))
        for n, first in enumerate(range(0, arch.ub_bytes, WINDOW_BYTES))
    ]
    # Every accumulator row gets a value: large ones, so that sums wrap.
    items += [
        instruction("read_weights", row_pitch=1, n_last=arch.columns),
        instruction("matmul", accumulate_shift=2, x_count=arch.accumulator_rows,
                    x_step=1 if arch.accumulator_rows < arch.ub_bytes else 0,
                    p_limit=arch.accumulator_rows),
    ]
    for name in names:
        items += draws.product() if name == "product" else [draws.until_fitting(name)]
    ordered = [part for item in items for part in (item, instruction("barrier"))
               if item.unit is not Unit.WEIGHTS or part is item]
    program = make_program(
        arch, [*ordered, instruction("halt")],
        weight_image=rng.integers(0, 256, WEIGHT_BYTES, np.uint8), windows=WINDOWS,
    )
    return program, [row.tobytes() for row in content]


OPERATIONS = (*LOAD_OPERATIONS, *STORE_OPERATIONS, "product", *VECTOR_OPERATIONS)


def _decoded(program: Program) -> list[Instruction]:
    return [decode(row.tobytes()) for row in program.code]


def _loops(program: Program, content: list[bytes]) -> Loops:
    """Run `program` on the loops, comparing footprints with what they touch."""
    machine = Loops(
        program.arch, bytes(program.arch.ub_bytes), program.initial_weight_memory(), content
    )
    for item in _decoded(program):
        machine.step(item)
        found = footprint(item, program.arch)
        for regions, touched in ((found.reads, machine.reads), (found.writes, machine.writes)):
            assert {(r.space, int(p)) for r in regions for p in r.places()} == touched, item
    return machine


def _run_all(arch: Arch, seed: int, names: tuple[str, ...]) -> None:
    program, content = draw_program(arch, seed, names)
    expected = _loops(program, content)
    given_contents = {
        window.name: np.frombuffer(data, np.uint8)
        for window, data in zip(WINDOWS, content, strict=True)
    }
    result = reference.run(program, given_contents)
    assert result.fault is None
    _compare(expected, result.memories, result.windows)
    amounts = result.coverage["amounts"].sum(axis=1)
    for amount, value in zip(AMOUNTS, amounts, strict=True):
        if amount.name != "fetch_bytes":
            assert expected.amounts[amount.unit, amount.name] == value, amount.name
    windows = program.initial_windows(given_contents)
    values = compute_values(program, windows)
    memories = {
        "ub": values.ub, "accumulators": values.accumulators, "weight": values.weight,
    }
    _compare(expected, memories, windows)
    units = np.array([item.unit for item in _decoded(program)])
    for unit, name, counts in (
        (Unit.MATRIX, "overflows", values.overflows),
        (Unit.VECTOR, "overflows", values.overflows),
        (Unit.VECTOR, "saturations", values.saturations),
    ):
        assert counts[units == unit].sum() == expected.amounts[unit, name], (unit, name)


def _compare(
    expected: Loops, memories: dict[str, np.ndarray], windows: list[np.ndarray]
) -> None:
    assert memories["accumulators"].tolist() == expected.accumulators
    assert memories["ub"].tobytes() == bytes(expected.memory[UB])
    assert memories["weight"].tobytes() == bytes(expected.memory[WEIGHT])
    assert [w.tobytes() for w in windows] == [
        bytes(expected.memory[WINDOW + n]) for n in range(len(windows))
    ]


@pytest.mark.parametrize("name", OPERATIONS)
@hypothesis_settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from(MACHINES))
def test_one_operation_is_the_loops(name: str, seed: int, arch: Arch) -> None:
    _run_all(arch, seed, (name,) * 4)


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from(MACHINES), st.data())
def test_operations_one_after_another_are_the_loops(
    seed: int, arch: Arch, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=12))
    _run_all(arch, seed, tuple(names))
