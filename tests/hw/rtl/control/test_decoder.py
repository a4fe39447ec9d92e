"""The RTL decoder against `isa.decode_fault`, on words that are legal, nearly legal and random."""

import random

import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import decode, decode_fault
from systol_hw.isa.encoding import Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.instruction import fields_of, unit_word_bits
from systol_hw.rtl.control.decoder import Decoder
from systol_hw.tables.faults import FaultCause, Unit


def verdicts(arch: Arch, words: list[int]) -> list[tuple[int, int, int]]:
    """`illegal`, `unsupported`, `unit` of the RTL for each word."""
    decoder = Decoder(arch)
    found: list[tuple[int, int, int]] = []

    async def bench(ctx):  # type: ignore[no-untyped-def]
        for word in words:
            ctx.set(decoder.word, word)
            found.append(
                (ctx.get(decoder.illegal), ctx.get(decoder.unsupported), ctx.get(decoder.unit))
            )

    simulator = Simulator(decoder)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def check(arch: Arch, words: list[int]) -> set[FaultCause | None]:
    """Assert equality on every word; the verdicts that occurred."""
    seen: set[FaultCause | None] = set()
    for word, (illegal, unsupported, unit) in zip(words, verdicts(arch, words), strict=True):
        data = word.to_bytes(64, "little")
        expected = decode_fault(data, arch)
        cause = expected[0] if expected else None
        seen.add(cause)
        assert illegal == (cause is FaultCause.ILLEGAL_INSTRUCTION), (data.hex(), expected)
        assert unsupported == (cause is FaultCause.UNSUPPORTED), (data.hex(), expected)
        if cause is None:
            assert unit == decode(data).unit
    return seen


def boundary_values(operation: Operation, arch: Arch, name: str) -> list[int]:
    """Encodings of one field at and around the ends of its range and of what is supported."""
    field = operation.field(name)
    ends = [*field.bounds(arch), field.supported_maximum or 0, field.default]
    return [(end + d) & ((1 << field.width) - 1) for end in ends for d in (-1, 0, 1)]


@pytest.mark.parametrize("preset", ["nano", "tpu-v1"])
def test_every_field_at_the_ends_of_its_range(preset: str) -> None:
    arch = PRESETS[preset]
    words = []
    for operation in OPERATIONS:
        base = operation.opcode
        for field in operation.fields:
            base |= (field.default & ((1 << field.width) - 1)) << field.lsb
        words.append(base)
        for field in operation.fields:
            mask = ((1 << field.width) - 1) << field.lsb
            for value in boundary_values(operation, arch, field.name):
                words.append(base & ~mask | value << field.lsb)
    assert check(arch, words) == {None, FaultCause.ILLEGAL_INSTRUCTION}


def test_every_opcode_and_every_reserved_bit() -> None:
    arch = PRESETS["edge16"]
    words = list(range(256))
    for operation in OPERATIONS:
        base = operation.opcode
        for field in operation.fields:
            base |= (field.default & ((1 << field.width) - 1)) << field.lsb
        words += [base | 1 << bit for bit in range(8, 512) if not operation.used_bits >> bit & 1]
    check(arch, words)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), preset=st.sampled_from(sorted(PRESETS)))
def test_random_words(seed: int, preset: str) -> None:
    arch = PRESETS[preset]
    rng = random.Random(seed)
    words = [rng.getrandbits(512) for _ in range(4)]
    for operation in OPERATIONS:
        word = operation.opcode
        for field in operation.fields:
            low, high = field.bounds(arch)
            value = rng.randint(low, high)
            if rng.random() < 0.02:
                value = rng.getrandbits(field.width)
            elif not rng.random() < 0.02:
                value &= ~field.forbidden_bits
                if field.supported_maximum is not None and rng.random() < 0.9:
                    value = min(value, field.supported_maximum)
            word |= (value & ((1 << field.width) - 1)) << field.lsb
        words.append(word)
    check(arch, words)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_fields_are_those_of_the_table(operation: Operation) -> None:
    word = random.Random(operation.opcode).getrandbits(512)
    decoder = Decoder(PRESETS["nano"])
    view = fields_of(decoder.word, operation)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(decoder.word, word)
        for field in operation.fields:
            assert ctx.get(view[field.name]) == field.extract(word), field.name

    simulator = Simulator(decoder)
    simulator.add_testbench(bench)
    simulator.run()


def test_stored_words_hold_every_field_of_their_unit() -> None:
    for operation in OPERATIONS:
        if operation.unit is not Unit.CONTROL and operation.supported:
            assert operation.used_bits >> unit_word_bits(operation.unit) == 0
