"""The instruction table. docs/isa.md is generated from it; semantics are stated in each `doc`."""

import dataclasses
from collections.abc import Iterable

from systol_hw.arch import TAGS, WINDOWS
from systol_hw.isa.choices import (
    Choice,
    ConfigRegister,
    Function,
    OperandWidth,
    Reduce,
    ResultWidth,
    TableWidth,
)
from systol_hw.isa.encoding import Field, Operation, check_table
from systol_hw.tables.faults import Unit

_OWN_FIELDS_BIT = 19
"""First bit behind the header of a unit's instruction; `binary` needs all from here on."""


def _layout(first_bit: int, fields: Iterable[Field]) -> tuple[Field, ...]:
    """Place `fields` (their `lsb` ignored) one after another from `first_bit` on."""
    placed = []
    for field in fields:
        placed.append(dataclasses.replace(field, lsb=first_bit))
        first_bit += field.width
    return tuple(placed)


def _u(name: str, width: int, doc: str, **rest: int | str | type[Choice] | None) -> Field:
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


def _control(name: str, opcode: int, tpu_v1: str, doc: str, *fields: Field) -> Operation:
    return Operation(
        name=name,
        opcode=opcode,
        unit=Unit.CONTROL,
        fields=_layout(32, fields),
        tpu_v1=tpu_v1,
        doc=doc,
    )


def _unit(
    name: str, opcode: int, unit: Unit, tpu_v1: str, doc: str, *fields: Field
) -> Operation:
    return Operation(
        name=name,
        opcode=opcode,
        unit=unit,
        fields=_header(unit) + _layout(_OWN_FIELDS_BIT, fields),
        tpu_v1=tpu_v1,
        doc=doc,
    )


# Behind the other fields, so that all of a unit's transfers have those at the same bits.
_WINDOW = _u("window", 4, "host window of the set", maximum=WINDOWS - 1)
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
    _u("transpose", 1, "a stored line is a column of the tile, not a row"),
    _u("address", 32, "first byte of the first tile"),
    _u("row_pitch", 24, "bytes from one stored line to the next"),
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
    "tile whose element in live row r and live column c is the signed byte at address + n*n_stride "
    "+ o*outer_stride + i*inner_stride + r*row_pitch + c (with `transpose`: + c*row_pitch + r). "
    "The rest of the tile is zero."
)

_MATMUL = (
    _u("accumulate", 1, "add to the accumulators from the first reduction step on"),
    _u("unsigned_activations", 1, "activations are unsigned bytes less 128"),
    _u("accumulate_shift", 2, "sums count 2^0, 2^8 or 2^16 times: 0, 1 or 2", maximum=2),
    _s("pad_value", 8, "activation supplied outside the window: the zero point (less 128 with "
       "unsigned_activations)"),
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
address + b (with `unsigned_activations` the unsigned byte less 128) if 0 <= line < y_limit and
0 <= p + b < p_limit, else pad_value; activation[b] = 0 for other b.
sums = (activation x tile) * 2^(8*accumulate_shift);
accumulators[acc_address + n*acc_n_step + y*x_count + x] are set to sums (first of the
k0*k1*k2 steps, unless `accumulate`) or increased by them, wrapping in 32 bits.
All `columns` sums are written; those of dead columns are products with zeros."""

PLANE_UNIT_BYTES = 64
"""Bytes that `a_plane_step` and its like count in."""

# Every vector instruction has these first, at the same bits: the RTL reads them without asking
# which instruction it is.
_VECTOR = (
    _u("a_width", 1, "operand A in the unified buffer", values=OperandWidth),
    _u("width", 2, "output", values=ResultWidth, maximum=ResultWidth.WIDE),
    _s("zero_point", 8, "added after rounding; the value that fill writes"),
    _s("low", 16, "clip: least result; outputs of 16 bits want their own", default=-128),
    _s("high", 16, "clip: greatest result; the default is that of bytes for all widths",
       default=127),
    _u("a_address", 32, "first element of A: byte address (of the low plane), or accumulator row"),
    _s("a_n_step", 20, "A, from channel group to channel group: bytes or rows"),
    _s("a_y_step", 24, "A, from output row to output row"),
    _s("a_x_step", 20, "A, from output column to output column"),
    _u("a_plane_step", 16, "A, from the low plane to the high one, in units of 64 bytes"),
    _count("y_count", 16, "output rows"),
    _count("x_count", 16, "output columns"),
    _count("n_count", 12, "channel groups of `columns` (outermost loop)"),
    _u("n_last", 9, "channels of the last group; others have `columns`",
       minimum=1, maximum="columns", default=1),
    _u("out_address", 32, "first byte of the output (of its lowest plane)"),
    _s("out_n_step", 20, "output, bytes from channel group to channel group"),
    _s("out_y_step", 24, "output, bytes from output row to output row"),
    _s("out_x_step", 20, "output, bytes from output column to output column"),
    _u("out_plane_step", 16, "output, from plane to plane, in units of 64 bytes"),
)
_VECTOR_DOC = """\
A value of 16 bits is two signed bytes, low + 256*high, in two planes; of 32 raw bits four bytes
in four planes, lowest first. Plane p of an operand or of the output lies p * 64 * its plane step
bytes behind plane 0. sat(q) is q saturated to -128..127, or to -32639..32639 with width = 1. """

_WINDOW_TAPS = (
    _u("source_ub", 1, "operand A is in the unified buffer, not accumulators"),
    _u("reduce", 2, "over the window", values=Reduce, maximum=Reduce.MEAN),
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
    _u("parameter_address", 32, "requantization parameters, 8 bytes each, packed"),
    _u("parameter_count", 9, "of mean: parameters, by the number of taps inside",
       minimum=1, maximum="columns", default=1),
)
_WINDOW_DOC = """\
for n: for y in y_count: for x in x_count: v[c] = max (or, with reduce = 1 or 2, the sum, wrapping
in 32 bits) over ky, kx of A[c] at a_address + n*a_n_step + y*a_y_step + x*a_x_step + ky*a_ky_step +
kx*a_kx_step, leaving out taps outside 0 <= y_start + y*y_step + ky*ky_step < y_limit,
0 <= x_start + x*x_step + kx*kx_step < x_limit; without any tap the maximum is -2**31, the sum 0.
A[c] is a 32-bit accumulator (column c of the row), or the value at byte address + c. """


def _windowed(**maxima: int) -> tuple[Field, ...]:
    """The fields of a window operation, some with another greatest value."""
    return tuple(
        dataclasses.replace(field, maximum=maxima.get(field.name, field.maximum))
        for field in (*_VECTOR, *_WINDOW_TAPS)
    )


_BINARY = (
    _u("function", 2, "of A and B", values=Function, maximum=Function.MAX),
    _u("b_width", 1, "operand B", values=OperandWidth),
    _s("a_zero_point", 8, "subtracted from A"),
    _s("b_zero_point", 8, "subtracted from B"),
    _s("a_multiplier", 18, "scale of A; of the product for mul", default=1),
    _s("b_multiplier", 18, "scale of B; not used by mul", default=1),
    _u("shift", 6, "bits that the result is shifted right by, rounding"),
    _u("b_address", 32, "first byte of B (of its low plane)"),
    _s("b_n_step", 20, "B, bytes from channel group to channel group"),
    _s("b_y_step", 24, "B, bytes from output row to output row; 0 broadcasts"),
    _s("b_x_step", 20, "B, bytes from output column to output column; 0 broadcasts"),
    _u("b_plane_step", 16, "B, from the low plane to the high one, in units of 64 bytes"),
)
_BINARY_DOC = """\
for n, y, x, c: a = A[c] - a_zero_point at a_address + n*a_n_step + y*a_y_step + x*a_x_step,
b = B[c] - b_zero_point at b_address + n*b_n_step + y*b_y_step + x*b_x_step; r = a*a_multiplier +
b*b_multiplier (add), a*b*a_multiplier (mul), min or max of a*a_multiplier and b*b_multiplier; q =
round_half_even(r / 2**shift) + zero_point, exact; sat(min(max(q, low), high)) is written at
out_address + n*out_n_step + y*out_y_step + x*out_x_step + c; what sat(q) changes is counted as
saturated. A subtraction is an addition with a negative multiplier. """

_TABLE = (
    _u("table_width", 1, "the table", values=TableWidth),
    _u("shift", 6, "bits that the result is shifted right by, rounding", default=8),
    _u("table_address", 32, "first byte of the table in the unified buffer"),
)
_TABLE_DOC = """\
for n, y, x, c: u = A[c] + 32768 limited to 0..65535 for 16 bits, 256*(A[c] + 128) for bytes;
i = u >> 8, f = u & 255. With table_width = 0 r = 256*T[i]; with 1 r = 256*T[i] + (T[i+1] - T[i])*f,
T being little-endian two's complement. q = round_half_even(r / 2**shift) + zero_point;
sat(min(max(q, low), high)) is written at out_address + n*out_n_step + y*out_y_step + x*out_x_step +
c; what sat(q) changes is counted as saturated. """

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
        "Waits until every unit is quiet, reports `value` to the host as interrupt does, and waits "
        "for the host's acknowledgement. Nothing behind it is dispatched before.",
        _u("value", 16, "number reported to the host"),
    ),
    _control(
        "set_config", 0x06, "set configuration",
        "Writes a register: 0 is the watchdog's limit for the rest of the run, in cycles (0 counts "
        "as 1; a limit above the host's counts as the host's); 1 is the status word, 0 when a run "
        "begins, which the host can read at any time.",
        _u("register", 8, "register", values=ConfigRegister, maximum=ConfigRegister.STATUS),
        _u("value", 32, "value"),
    ),
    _unit("read_host", 0x10, Unit.LOAD, "Read_Host_Memory",
          _TRANSFER_DOC.format(to_from="to"), *_TRANSFER, _WINDOW),
    _unit("read_host_alternate", 0x11, Unit.LOAD, "Read_Host_Memory (alternate)",
          "As read_host, from window `window` of the alternate set: 8 + window.",
          *_TRANSFER, _WINDOW),
    _unit("read_weight_memory", 0x12, Unit.LOAD, "none (weight memory is read-only there)",
          _TRANSFER_DOC.format(to_from="to"), *_TRANSFER),
    _unit("write_host", 0x20, Unit.STORE, "Write_Host_Memory",
          _TRANSFER_DOC.format(to_from="from"), *_TRANSFER, _WINDOW),
    _unit("write_host_alternate", 0x21, Unit.STORE, "Write_Host_Memory (alternate)",
          "As write_host, to window `window` of the alternate set: 8 + window.",
          *_TRANSFER, _WINDOW),
    _unit("write_weight_memory", 0x22, Unit.STORE, "none (spills)",
          _TRANSFER_DOC.format(to_from="from"), *_TRANSFER),
    _unit("read_weights", 0x30, Unit.WEIGHTS, "Read_Weights",
          _TILES_DOC + " Source: weight memory.", *_TILES),
    _unit("read_weights_ub", 0x31, Unit.WEIGHTS, "none (products of two activations)",
          _TILES_DOC + " Source: the unified buffer.", *_TILES),
    _unit("matmul", 0x40, Unit.MATRIX, "MatrixMultiply/Convolve", _MATMUL_DOC, *_MATMUL),
    _unit(
        "requantize", 0x50, Unit.VECTOR, "Activate", _VECTOR_DOC + _WINDOW_DOC +
        "Then w = v + bias, wrapping in 32 bits (counted); q = round_half_even(w * multiplier / "
        "2**shift) + zero_point, exact; sat(min(max(q, low), high)) is written at out_address + "
        "n*out_n_step + y*out_y_step + x*out_x_step + c; what sat(q) changes is counted as "
        "saturated. Channel c of group n has its parameters at parameter_address + 8*(n*columns + "
        "c): bias int32, multiplier in the low 18 bits of the next three bytes (signed), shift in "
        "the low 6 bits of the last, little-endian. With reduce = 2 (mean) they belong not to the "
        "channel but to the number t of taps inside: parameter_address + 8*(min(max(t, 1), "
        "parameter_count) - 1), the same for every group. parameter_count is at most `columns`, so "
        "on an array of fewer columns than a window has taps, the counts from parameter_count on "
        "share an entry: a window that is never cut short has one count, and 1 entry will do; one "
        "of 7 x 7 that is cut short at the edges has counts up to 49, and on 16 columns its inner "
        "and its outer places are separate instructions.",
        *_windowed(),
    ),
    _unit(
        "copy", 0x51, Unit.VECTOR, "Activate (pooling)", _VECTOR_DOC + _WINDOW_DOC +
        "sat(min(max(v, low), high)), with width = 2 all 32 bits of v, is written at out_address + "
        "n*out_n_step + y*out_y_step + x*out_x_step + c, and nothing is counted. reduce is 0 (max) "
        "or 1 (sum). zero_point, parameter_address and parameter_count are not used.",
        *_windowed(width=ResultWidth.RAW, reduce=Reduce.SUM),
    ),
    _unit(
        "fill", 0x52, Unit.VECTOR, "none (initialization)", _VECTOR_DOC +
        "for n, y, x, c: zero_point, sign-extended to 32 bits where the output has them (of 16 "
        "bits the low plane holds it, the high one 0), is written at out_address + n*out_n_step + "
        "y*out_y_step + x*out_x_step + c. Taps are not read and take one slot for each row: "
        "ky_count = kx_count = 1 and a_width = 0. Other fields are not used.",
        *(dataclasses.replace(field, minimum=1) if field.name in ("ky_count", "kx_count")
          else field for field in _windowed(width=ResultWidth.RAW, ky_count=1,
                                                  kx_count=1, a_width=0)),
    ),
    _unit("binary", 0x53, Unit.VECTOR, "Activate (elementwise)", _VECTOR_DOC + _BINARY_DOC,
          *_VECTOR, *_BINARY),
    _unit("table", 0x54, Unit.VECTOR, "Activate (nonlinear functions)", _VECTOR_DOC + _TABLE_DOC,
          *_VECTOR, *_TABLE),
)
"""Every operation of the machine, by ascending opcode."""

check_table(OPERATIONS)
