"""The decoder: each of the 2**512 words is legal, illegal or unsupported, as the table says.

The table's rules are stated here once more, as masks and comparisons of wide numbers.
"""

from functools import partial
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal

from systol_hw.arch import PRESETS, Arch
from systol_hw.formal.proof import Mutant, Proof
from systol_hw.isa.encoding import Field, Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.faults import Unit

__all__ = ["PROOFS"]

_BITS = 512
_WIDE = 40
"""Bits that hold every field's value and bounds with their signs."""


def _decoder(source: Any, *, arch: Arch) -> Module:
    m = Module()
    m.submodules.decoder = dut = source.Decoder(arch)
    word = Signal(_BITS)
    m.d.comb += [word.eq(AnySeq(_BITS)), dut.word.eq(word)]

    known, legal, supported = Signal(), Signal(), Signal()
    unit = Signal(dut.unit.shape())
    for operation in OPERATIONS:
        with m.If(word[:8] == operation.opcode):
            m.d.comb += [
                known.eq(1),
                legal.eq(_legal(operation, word, arch)),
                supported.eq(_supported(operation, word)),
                unit.eq(operation.unit),
            ]
    runs = Signal()
    m.d.comb += [
        runs.eq(~dut.illegal & ~dut.unsupported),
        Assert(dut.illegal + dut.unsupported + runs == 1),
        Assert(dut.illegal == ~(known & legal)),
        Assert(dut.unsupported == (known & legal & ~supported)),
        Assert(dut.opcode == word[:8]),
        Assert(dut.illegal | (dut.unit == unit)),
        Assert(dut.illegal | (dut.unit <= max(Unit))),
    ]
    return m


def _value(field: Field, word: Any) -> Any:
    """The field's number, extended with its sign to `_WIDE` bits, as an unsigned pattern."""
    raw = word[field.lsb : field.lsb + field.width]
    sign = raw[-1] if field.signed else Const(0, 1)
    return Cat(raw, sign.replicate(_WIDE - field.width))


def _legal(operation: Operation, word: Any, arch: Arch) -> Any:
    reserved = ((1 << _BITS) - 1) & ~operation.used_bits
    rules = [(word & Const(reserved, _BITS)) == 0]
    for field in operation.fields:
        low, high = field.bounds(arch)
        # Moved so that the least legal value is zero, one unsigned comparison is the whole range.
        moved = (_value(field, word) - low)[:_WIDE]
        rules += [moved <= high - low, (_value(field, word) & field.forbidden_bits) == 0]
    return Cat(rules).all()


def _supported(operation: Operation, word: Any) -> Any:
    rules: list[Any] = [Const(int(operation.supported), 1)]
    for field in operation.fields:
        if field.supported_maximum is not None:
            value = _value(field, word)
            rules.append(Mux(value[-1], 1, value <= field.supported_maximum))
    return Cat(rules).all()


PROOFS: tuple[Proof, ...] = tuple(
    Proof(
        name=f"decoder-{name}",
        source="systol_hw.rtl.control.decoder",
        states="every word of 512 bits is exactly one of legal, illegal and unsupported, and which "
        f"one, and its unit and opcode, is what the instruction table says; on {name}",
        build=partial(_decoder, arch=PRESETS[name]),
        depth=1,
        mutants=(
            Mutant(old="self.unit.eq(operation.unit)", new="self.unit.eq(operation.unit ^ 1)"),
            Mutant(old="if not operation.used_bits >> bit & 1",
                   new="if not (operation.used_bits | 1 << 511) >> bit & 1"),
            Mutant(old="conditions.append(value > high)", new="conditions.append(value >= high)"),
        ),
    )
    for name in ("nano", "edge16")
)
"""Proofs about the decoder."""
