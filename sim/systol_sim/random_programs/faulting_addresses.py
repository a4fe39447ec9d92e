"""Instructions of which one access lies outside its memory, for every access that there is."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from systol_hw.arch import PARAMETER_BYTES, WINDOWS, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.isa.choices import Reduce
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.program import Program
from systol_sim.random_programs.elementwise_proposals import TABLE_BYTES
from systol_sim.random_programs.vector_proposals import BYTES, PLANES, RAW, SIXTEEN
from systol_sim.validity.footprint import ADDRESS_SPAN

Builder = Callable[[Program, random.Random], list[Instruction]]
"""Makes the instructions to put into a program; the last one faults."""


def _past(rng: random.Random, size: int, length: int) -> int:
    """An address from which `length` places do not all fit in `size`."""
    return rng.choice(
        (max(0, size - rng.randint(0, length - 1)), size, size + rng.randint(1, 99), 1 << 31,
         ADDRESS_SPAN - 1, ADDRESS_SPAN - length)
    )


def _signed(address: int) -> int:
    return address - ADDRESS_SPAN if address >= 1 << 31 else address


def _past_plane(rng: random.Random, arch: Arch) -> int:
    """A plane step that leaves the unified buffer from any address inside."""
    return min(0xFFFF, arch.ub_bytes // PLANE_UNIT_BYTES + rng.choice((0, 1, 99)))


def _transfer(program: Program, rng: random.Random, name: str, side: str) -> list[Instruction]:
    fields = {"run_bytes": rng.randint(1, 20)}
    first = WINDOWS if name.endswith("_alternate") else 0
    given = max(0, min(WINDOWS, len(program.windows) - first))
    if side == "window" and given == WINDOWS:
        side = "memory"
    if "host" in name:
        if side == "window" or not given:
            fields["window"] = rng.randint(given, WINDOWS - 1)
            return [instruction(name, **fields)]
        fields["window"] = rng.randrange(given)
        size = program.windows[first + fields["window"]].size_bytes
    else:
        size = program.weight_memory_bytes
    if side == "ub":
        size = program.arch.ub_bytes
    if name == "write_weight_memory" and side == "memory":
        # What still fits must not overwrite the code, which stands last.
        address = size + rng.randint(0, 50)
        if rng.random() < 0.5:
            return [instruction(name, **fields, count0=2, memory_stride0=address)]
        return [instruction(name, **fields, memory_address=address)]
    if rng.random() < 0.3 and size >= 4 * fields["run_bytes"]:
        # The first run is inside, a later one is not.
        step = rng.choice((-1, 1)) * (size // 2 + 1)
        inside = {f"{side}_address": size // 2 - fields["run_bytes"]}
        return [
            instruction(name, **fields, **inside, **{f"{side}_stride0": step}, count0=3)
        ]
    address = _past(rng, size, fields["run_bytes"])
    return [instruction(name, **fields, **{f"{side}_address": address})]


def _weights(program: Program, rng: random.Random, name: str) -> list[Instruction]:
    arch = program.arch
    size = arch.ub_bytes if name.endswith("ub") else program.weight_memory_bytes
    transpose = rng.randrange(2)
    if rng.random() < 0.4:
        # The first line is inside, a later one is not.
        lines = {"n_last" if transpose else "k_last": 4}
        pitch = min((1 << 24) - 1, size // 3 + 1)
        return [instruction(name, transpose=transpose, row_pitch=pitch, **lines)]
    length = rng.randint(1, arch.rows if transpose else arch.columns)
    line = {"k_last" if transpose else "n_last": length}
    return [instruction(name, transpose=transpose, address=_past(rng, size, length), **line)]


def _tile_and(item: Instruction) -> list[Instruction]:
    return [instruction("read_weights", k_last=item["k_last"]), item]


def _matrix_ub(program: Program, rng: random.Random) -> list[Instruction]:
    arch, size = program.arch, program.arch.ub_bytes
    live = rng.randint(1, arch.rows)
    inside = {"p_limit": 1 << 16, "y_limit": 99, "k_last": live,
              "unsigned_activations": rng.randrange(2), "accumulate_shift": rng.randrange(3)}
    if rng.random() < 0.4:
        step = rng.choice((-1, 1)) * (size // 3 + 1)
        inside |= {"y_count": 4, "y_address_step": step, "ub_address": size // 2}
    else:
        inside["ub_address"] = _signed(_past(rng, size, live))
    return _tile_and(instruction("matmul", **inside))


def _matrix_accumulators(program: Program, rng: random.Random) -> list[Instruction]:
    rows = program.arch.accumulator_rows
    y_count = rng.randint(1, min(3, rows))
    first = rng.choice((rows - y_count + 1, rows, min(0xFFFF, rows + 99)))
    return _tile_and(instruction("matmul", p_limit=0, y_count=y_count, acc_address=first))


def _counts(program: Program, rng: random.Random) -> dict[str, int]:
    return {"n_last": rng.randint(1, program.arch.columns), "x_count": rng.randint(1, 3)}


def _parameter(program: Program, rng: random.Random, reduce: int) -> list[Instruction]:
    fields, size = _counts(program, rng), program.arch.ub_bytes
    count = rng.randint(1, program.arch.columns) if reduce == Reduce.MEAN else fields["n_last"]
    fields |= {"reduce": reduce, "parameter_count": count,
               "parameter_address": _past(rng, size, PARAMETER_BYTES * count)}
    return [instruction("requantize", x_limit=9, y_limit=9, **fields)]


def _tap(program: Program, rng: random.Random, what: str) -> list[Instruction]:
    fields, arch = _counts(program, rng), program.arch
    name = rng.choice(("copy", "requantize"))
    fields |= {"source_ub": 1, "reduce": rng.randrange(2)}
    if what == "plane":
        fields |= {"a_width": 1, "a_plane_step": _past_plane(rng, arch)}
    elif what == "accumulator":
        rows = arch.accumulator_rows
        address = rng.choice((rows, rows + 1, ADDRESS_SPAN - 1, 1 << 30))
        fields |= {"source_ub": 0, "a_address": address}
    else:
        fields |= {"a_width": rng.randrange(2),
                   "a_address": _past(rng, arch.ub_bytes, fields["n_last"])}
    return [instruction(name, x_limit=9, y_limit=9, **fields)]


def _output(program: Program, rng: random.Random, name: str, width: int) -> list[Instruction]:
    fields, arch = _counts(program, rng), program.arch
    fields["width"] = width
    if width and rng.random() < 0.5:
        fields["out_plane_step"] = _past_plane(rng, arch)
    elif rng.random() < 0.4:
        fields |= {"out_x_step": -1, "x_count": 2}
    else:
        fields["out_address"] = _past(rng, arch.ub_bytes, fields["n_last"])
    window = {"x_limit": 9, "y_limit": 9} if name in ("copy", "requantize") else {}
    return [instruction(name, **window, **fields)]


def _elementwise(
    program: Program, rng: random.Random, name: str, operand: str
) -> list[Instruction]:
    fields, arch = _counts(program, rng), program.arch
    if rng.random() < 0.5:
        fields |= {f"{operand}_width": 1, f"{operand}_plane_step": _past_plane(rng, arch)}
    else:
        fields |= {f"{operand}_width": rng.randrange(2),
                   f"{operand}_address": _past(rng, arch.ub_bytes, fields["n_last"])}
    if name == "binary" and operand == "b":
        # A lies inside, and sometimes has fewer accesses than B, or more.
        fields["a_width"] = rng.randrange(2)
    return [instruction(name, **fields)]


def _table(program: Program, rng: random.Random, table_width: int) -> list[Instruction]:
    size = TABLE_BYTES[table_width]
    address = _past(rng, program.arch.ub_bytes, size)
    return [
        instruction("table", table_width=table_width, table_address=address,
                    **_counts(program, rng))
    ]


_TRANSFERS = tuple(
    (name, side)
    for name in ("read_host", "read_host_alternate", "read_weight_memory", "write_host",
                 "write_host_alternate", "write_weight_memory")
    for side in ("memory", "ub", "window")
    if side != "window" or "host" in name
)
_OUTPUTS: Sequence[tuple[str, int]] = tuple(
    (name, width)
    for name, widest in (("requantize", SIXTEEN), ("copy", RAW), ("fill", RAW),
                         ("binary", SIXTEEN), ("table", SIXTEEN))
    for width in range(widest + 1)
)
BUILDERS: Mapping[str, Builder] = {
    **{
        f"{name} {side}": partial(_transfer, name=name, side=side) for name, side in _TRANSFERS
    },
    "read_weights": partial(_weights, name="read_weights"),
    "read_weights_ub": partial(_weights, name="read_weights_ub"),
    "matmul ub": _matrix_ub,
    "matmul accumulators": _matrix_accumulators,
    "requantize parameter": partial(_parameter, reduce=Reduce.MAX),
    "requantize mean parameter": partial(_parameter, reduce=Reduce.MEAN),
    **{f"vector {what}": partial(_tap, what=what) for what in ("tap", "plane", "accumulator")},
    **{
        f"{name} output of {PLANES[width]} planes": partial(_output, name=name, width=width)
        for name, width in _OUTPUTS
    },
    "binary a": partial(_elementwise, name="binary", operand="a"),
    "binary b": partial(_elementwise, name="binary", operand="b"),
    "table a": partial(_elementwise, name="table", operand="a"),
    "table bytes": partial(_table, table_width=BYTES),
    "table knots": partial(_table, table_width=SIXTEEN),
}
"""By name: what makes an address fault."""
