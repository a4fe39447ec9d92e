"""The instruction table. docs/isa.md is generated from it; semantics are stated in each `doc`."""

import dataclasses
from collections.abc import Iterable

from systol_hw.arch import TAGS, WINDOWS
from systol_hw.encoding import Field, Operation, check_table
from systol_hw.faults import Unit


def _layout(first_bit: int, fields: Iterable[Field]) -> tuple[Field, ...]:
    """Place `fields` (their `lsb` ignored) one after another from `first_bit` on."""
    placed = []
    for field in fields:
        placed.append(dataclasses.replace(field, lsb=first_bit))
        first_bit += field.width
    return tuple(placed)


def _flags_then_words(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Fields of at most 4 bits from bit 24 on, the others from bit 32 on."""
    fields = tuple(fields)
    count = next(i for i, field in enumerate(fields) if field.width > 4)
    return _layout(24, fields[:count]) + _layout(32, fields[count:])


def _u(name: str, width: int, doc: str, **rest: int | str | None) -> Field:
    return Field(name=name, lsb=0, width=width, doc=doc, **rest)  # type: ignore[arg-type]


def _s(name: str, width: int, doc: str, **rest: int | str | None) -> Field:
    return Field(name=name, lsb=0, width=width, signed=True, doc=doc, **rest)  # type: ignore[arg-type]


def _count(name: str, width: int, doc: str) -> Field:
    return _u(name, width, doc, minimum=1, default=1)


def _header(unit: Unit) -> tuple[Field, ...]:
    """Bits 8..18: the token masks (bit `unit - 1` for each unit) and the drain bit."""
    own = 1 << (unit - 1)
    return (
        Field(name="wait", lsb=8, width=5, forbidden_bits=own,
              doc="units whose token is consumed before the start"),
        Field(name="signal", lsb=13, width=5, forbidden_bits=own,
              doc="units that are given a token at the end"),
        Field(
            name="drain",
            lsb=18,
            width=1,
            doc="start only after every earlier instruction of this unit has ended",
        ),
    )


def _control(name: str, opcode: int, tpu_v1: str, doc: str, *fields: Field,
             supported: bool = True) -> Operation:
    return Operation(
        name=name,
        opcode=opcode,
        unit=Unit.CONTROL,
        fields=_layout(32, fields),
        supported=supported,
        tpu_v1=tpu_v1,
        doc=doc,
    )


def _unit(name: str, opcode: int, unit: Unit, tpu_v1: str, doc: str, *fields: Field,
          supported: bool = True) -> Operation:
    return Operation(
        name=name,
        opcode=opcode,
        unit=unit,
        fields=_header(unit) + _flags_then_words(fields),
        supported=supported,
        tpu_v1=tpu_v1,
        doc=doc,
    )


_WINDOW = _u("window", 4, "host window", maximum=WINDOWS - 1)
_TRANSFER = (
    _u("memory_address", 32, "first byte in the window or in weight memory"),
    _u("ub_address", 32, "first byte in the unified buffer"),
    _count("run_bytes", 24, "contiguous bytes of one run"),
    _count("count0", 16, "runs of the inner loop"),
    _count("count1", 16, "turns of the outer loop"),
    _s("memory_stride0", 32, "bytes from run to run in memory"),
    _s("memory_stride1", 32, "bytes from turn to turn in memory"),
    _s("ub_stride0", 32, "bytes from run to run in the unified buffer"),
    _s("ub_stride1", 32, "bytes from turn to turn in the unified buffer"),
)
_TRANSFER_DOC = (
    "for i in count1: for j in count0: copy run_bytes from "
    "memory_address + i*memory_stride1 + j*memory_stride0 {to_from} "
    "ub_address + i*ub_stride1 + j*ub_stride0."
)

_TILES = (
    _u("transpose", 1, "tiles are stored with columns along the pitch", supported_maximum=0),
    _u("address", 32, "first byte of the first tile"),
    _u("row_pitch", 24, "bytes from one tile row to the next"),
    _count("n_count", 12, "column tiles (outermost loop)"),
    _count("outer_count", 16, "outer reduction steps, such as kernel positions"),
    _count("inner_count", 16, "inner reduction steps, such as channel chunks (innermost loop)"),
    _s("n_stride", 32, "bytes from column tile to column tile"),
    _s("outer_stride", 32, "bytes from outer step to outer step"),
    _s("inner_stride", 32, "bytes from inner step to inner step"),
    _u("k_last", 9, "live rows of the last inner step; other steps have `rows`",
       minimum=1, maximum="rows", default=1),
    _u("n_last", 9, "live columns of the last column tile; others have `columns`",
       minimum=1, maximum="columns", default=1),
)
_TILES_DOC = (
    "for n in n_count: for o in outer_count: for i in inner_count: append to the weight FIFO the "
    "tile whose live row r is the live columns' bytes at address + n*n_stride + o*outer_stride + "
    "i*inner_stride + r*row_pitch. The rest of the tile is zero."
)

_MATMUL = (
    _u("accumulate", 1, "add to the accumulators from the first reduction step on"),
    _u("unsigned_activations", 1, "activations are unsigned bytes", supported_maximum=0),
    _u("accumulate_shift", 2, "shift products left by 0, 8 or 16 bits", maximum=2,
       supported_maximum=0),
    _s("pad_value", 8, "activation supplied outside the window: the zero point"),
    _s("ub_address", 32, "byte address of element b = 0 of the first row (may lie outside)"),
    _s("p_start", 24, "position in the input row of the first byte"),
    _u("p_limit", 24, "bytes of an input row: positions 0..p_limit-1 are inside", default=1),
    _s("y_start", 16, "input row of the first position"),
    _u("y_limit", 16, "input rows: rows 0..y_limit-1 are inside", default=1),
    _count("x_count", 16, "positions in a row of the output window (innermost loop)"),
    _count("y_count", 16, "rows of the output window"),
    _count("k2_count", 16, "reduction steps along the input row (channel chunks)"),
    _count("k1_count", 8, "reduction steps along the input row (kernel columns)"),
    _count("k0_count", 8, "reduction steps across input rows (kernel rows)"),
    _count("n_count", 12, "column tiles (outermost loop)"),
    _s("x_step", 24, "bytes from position to position, in p and in address"),
    _s("k2_step", 24, "bytes of a k2 step, in p and in address"),
    _s("k1_step", 24, "bytes of a k1 step, in p and in address"),
    _s("n_step", 24, "bytes of a column tile's step, in p and in address"),
    _u("y_step", 8, "input rows from output row to output row"),
    _u("k0_step", 8, "input rows of a k0 step"),
    _s("y_address_step", 24, "bytes from output row to output row, in address"),
    _s("k0_address_step", 24, "bytes of a k0 step, in address"),
    _u("k_last", 9, "live bytes in the last k2 step; other steps have `rows`",
       minimum=1, maximum="rows", default=1),
    _u("acc_address", 16, "first accumulator row"),
    _u("acc_n_step", 16, "accumulator rows from column tile to column tile"),
)
_MATMUL_DOC = """\
Consumes n_count*k0_count*k1_count*k2_count tiles from the weight FIFO.
for n: for k0: for k1: for k2: take the next tile; for y in y_count: for x in x_count:
p = p_start + n*n_step + k1*k1_step + k2*k2_step + x*x_step;
address = ub_address + n*n_step + k0*k0_address_step + k1*k1_step + k2*k2_step + y*y_address_step
+ x*x_step; line = y_start + k0*k0_step + y*y_step;
activation[b] for live b (b < k_last in the last k2 step, b < rows otherwise) is the signed byte at
address + b if 0 <= line < y_limit and 0 <= p + b < p_limit, else pad_value;
activation[b] = 0 for other b. sums = activation x tile;
accumulators[acc_address + n*acc_n_step + y*x_count + x] are set to sums (first of the
k0*k1*k2 steps, unless `accumulate`) or increased by them, wrapping in 32 bits.
All `columns` sums are written; those of dead columns are products with zeros."""

_VECTOR_WINDOW = (
    _u("source_ub", 1, "operand A is bytes of the unified buffer, not accumulators"),
    _u("reduce", 2, "over the window: 0 max, 1 sum, 2 mean", maximum=2, supported_maximum=0),
    _u("width", 2, "output: 0 one signed byte, 1 sixteen bits, 2 raw 32 bits", maximum=2,
       supported_maximum=0),
    _s("zero_point", 8, "added after requantization; the byte that fill writes"),
    _s("low", 16, "clip: least result", minimum=-128, maximum=127, default=-128),
    _s("high", 16, "clip: greatest result", minimum=-128, maximum=127, default=127),
    _s("a_address", 32, "first element of A: byte address, or accumulator row"),
    _s("a_n_step", 24, "from channel group to channel group: bytes or rows"),
    _s("a_y_step", 24, "from output row to output row"),
    _s("a_x_step", 24, "from output column to output column"),
    _s("a_ky_step", 20, "from tap row to tap row"),
    _s("a_kx_step", 20, "from tap column to tap column"),
    _s("y_start", 8, "input row of the first tap"),
    _s("x_start", 8, "input column of the first tap"),
    _u("y_limit", 16, "input rows; taps outside are left out", default=1),
    _u("x_limit", 16, "input columns; taps outside are left out", default=1),
    _u("y_step", 6, "input rows per output row"),
    _u("x_step", 6, "input columns per output column"),
    _u("ky_step", 4, "input rows per tap row"),
    _u("kx_step", 4, "input columns per tap column"),
    _count("ky_count", 8, "tap rows"),
    _count("kx_count", 8, "tap columns"),
    _count("y_count", 16, "output rows"),
    _count("x_count", 16, "output columns"),
    _count("n_count", 12, "channel groups of `columns` (outermost loop)"),
    _u("n_last", 9, "channels of the last group; others have `columns`",
       minimum=1, maximum="columns", default=1),
    _u("out_address", 32, "first byte of the output"),
    _s("out_n_step", 24, "bytes from channel group to channel group"),
    _s("out_y_step", 24, "bytes from output row to output row"),
    _s("out_x_step", 24, "bytes from output column to output column"),
    _u("parameter_address", 32, "requantization parameters: 8 bytes a channel, packed"),
)
_WINDOW_DOC = """\
for n: for y in y_count: for x in x_count: v[c] = max over ky, kx of A[c] at a_address + n*a_n_step
+ y*a_y_step + x*a_x_step + ky*a_ky_step + kx*a_kx_step, leaving out taps outside
0 <= y_start + y*y_step + ky*ky_step < y_limit, 0 <= x_start + x*x_step + kx*kx_step < x_limit;
without any tap v = -2**31. A[c] is a 32-bit accumulator (column c of the row), or the signed
byte at address + c. """

_BINARY = (
    _u("function", 3, "0 add, 1 sub, 2 mul, 3 min, 4 max", maximum=4),
    _u("width", 2, "operands and result: 0 bytes, 1 sixteen bits", maximum=1),
    _s("low", 16, "clip: least result", default=-128),
    _s("high", 16, "clip: greatest result", default=127),
    _u("a_address", 32, "operand A"),
    _s("a_n_step", 24, "A, bytes from channel group to channel group"),
    _s("a_y_step", 24, "A, bytes from row to row"),
    _s("a_x_step", 24, "A, bytes from column to column"),
    _u("b_address", 32, "operand B"),
    _s("b_n_step", 24, "B, bytes from channel group to channel group"),
    _s("b_y_step", 24, "B, bytes from row to row; 0 broadcasts"),
    _s("b_x_step", 24, "B, bytes from column to column; 0 broadcasts"),
    _count("y_count", 16, "rows"),
    _count("x_count", 16, "columns"),
    _count("n_count", 12, "channel groups (outermost loop)"),
    _u("n_last", 9, "channels of the last group", minimum=1, maximum="columns", default=1),
    _u("out_address", 32, "output"),
    _s("out_n_step", 24, "output, bytes from channel group to channel group"),
    _s("out_y_step", 24, "output, bytes from row to row"),
    _s("out_x_step", 24, "output, bytes from column to column"),
    _u("parameter_address", 32, "scales and zero points of A, B and the result"),
)
_TABLE = (*_BINARY[1:8], *_BINARY[12:20],
          _u("table_address", 32, "table: 256 bytes, or 257 sixteen-bit knots"))

OPERATIONS: tuple[Operation, ...] = (
    _control("nop", 0x00, "nop", "Does nothing for one cycle of dispatch."),
    _control("halt", 0x01, "halt", "Waits until every unit is quiet, then stops the machine."),
    _control(
        "tag", 0x02, "debug-tag",
        "Instructions dispatched from here on charge their counters to `tag`.",
        _u("tag", 4, "debug tag", maximum=TAGS - 1),
    ),
    _control(
        "interrupt", 0x03, "interrupt host",
        "Raises the host interrupt with `value`. Put a barrier before it to order it after work.",
        _u("value", 16, "number reported to the host"),
    ),
    _control(
        "barrier", 0x04, "synchronization (of the units)",
        "Waits until every unit is quiet; nothing behind it is dispatched before.",
    ),
    _control(
        "sync_host", 0x05, "synchronization (with the host)",
        "Waits until the host acknowledges.",
        _u("value", 16, "number reported to the host"),
        supported=False,
    ),
    _control(
        "set_config", 0x06, "set configuration",
        "Writes a machine register.",
        _u("register", 8, "register number"),
        _u("value", 32, "value"),
        supported=False,
    ),
    _unit("read_host", 0x10, Unit.LOAD, "Read_Host_Memory",
          _TRANSFER_DOC.format(to_from="to"), _WINDOW, *_TRANSFER),
    _unit("read_host_alternate", 0x11, Unit.LOAD, "Read_Host_Memory (alternate)",
          "As read_host, through the alternate set of windows.", _WINDOW, *_TRANSFER,
          supported=False),
    _unit("read_weight_memory", 0x12, Unit.LOAD, "none (weight memory is read-only there)",
          _TRANSFER_DOC.format(to_from="to"), *_TRANSFER),
    _unit("write_host", 0x20, Unit.STORE, "Write_Host_Memory",
          _TRANSFER_DOC.format(to_from="from"), _WINDOW, *_TRANSFER),
    _unit("write_host_alternate", 0x21, Unit.STORE, "Write_Host_Memory (alternate)",
          "As write_host, through the alternate set of windows.", _WINDOW, *_TRANSFER,
          supported=False),
    _unit("write_weight_memory", 0x22, Unit.STORE, "none (spills)",
          _TRANSFER_DOC.format(to_from="from"), *_TRANSFER),
    _unit("read_weights", 0x30, Unit.WEIGHTS, "Read_Weights",
          _TILES_DOC + " Source: weight memory.", *_TILES),
    _unit("read_weights_ub", 0x31, Unit.WEIGHTS, "none (products of two activations)",
          _TILES_DOC + " Source: the unified buffer.", *_TILES, supported=False),
    _unit("matmul", 0x40, Unit.MATRIX, "MatrixMultiply/Convolve", _MATMUL_DOC, *_MATMUL),
    _unit(
        "requantize", 0x50, Unit.VECTOR, "Activate", _WINDOW_DOC +
        "Then w = v + bias[c], wrapping in 32 bits; q = round_half_even(w * multiplier[c] / "
        "2**shift[c]) + zero_point, exact; q saturates to -128..127 (counted); the byte "
        "min(max(q, low), high) is written at out_address + n*out_n_step + y*out_y_step + "
        "x*out_x_step + c. Channel c of group n has its parameters at parameter_address + "
        "8*(n*columns + c): bias int32, multiplier in the low 18 bits of the next three bytes "
        "(signed), shift in the low 6 bits of the last, little-endian.",
        *_VECTOR_WINDOW,
    ),
    _unit(
        "copy", 0x51, Unit.VECTOR, "Activate (pooling)", _WINDOW_DOC +
        "The byte min(max(v, low), high) is written at out_address + n*out_n_step + "
        "y*out_y_step + x*out_x_step + c. parameter_address is not used.",
        *_VECTOR_WINDOW,
    ),
    _unit(
        "fill", 0x52, Unit.VECTOR, "none (initialization)",
        "for n, y, x, c: the byte zero_point is written at out_address + n*out_n_step + "
        "y*out_y_step + x*out_x_step + c. Taps are not read and take one slot for each row: "
        "ky_count = kx_count = 1. Other fields are not used.",
        *(field if field.name not in ("ky_count", "kx_count")
          else _u(field.name, field.width, field.doc, minimum=1, maximum=1, default=1)
          for field in _VECTOR_WINDOW),
    ),
    _unit("binary", 0x53, Unit.VECTOR, "Activate (elementwise)",
          "result = function(A, B), each operand with its own scale.", *_BINARY, supported=False),
    _unit("table", 0x54, Unit.VECTOR, "Activate (nonlinear functions)",
          "result = table function of A: 256 bytes, or 16-bit with interpolation.", *_TABLE,
          supported=False),
)
"""Every operation of the machine, by ascending opcode."""

check_table(OPERATIONS)
