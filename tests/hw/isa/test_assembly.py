"""The assembler and the disassembler are inverses, and errors say where and what is near."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, SystolError
from systol_hw.isa import Instruction, decode_fault, instruction
from systol_hw.isa.assembly import assemble, assemble_code, disassemble, disassemble_code
from systol_hw.isa.encoding import Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.program import Program, Window
from systol_hw.program_text import format_program, parse_program


def instructions_of(operation: Operation) -> st.SearchStrategy[Instruction]:
    fields = {}
    for field in operation.fields:
        low = -(1 << (field.width - 1)) if field.signed else 0
        high = (1 << (field.width - field.signed)) - 1
        fields[field.name] = st.one_of(st.just(field.default), st.integers(low, high))
    return st.fixed_dictionaries(fields).map(lambda values: instruction(operation, **values))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_disassembly_assembles_to_the_same_instruction(operation: Operation) -> None:
    @given(instructions_of(operation))
    def check(item: Instruction) -> None:
        assert assemble(disassemble([item])) == [item]

    check()


def test_defaults_are_left_out_and_masks_are_symbolic() -> None:
    item = instruction("matmul", wait=0b10001, ub_address=-16, x_count=4, k_last=1)
    assert disassemble([item]) == "matmul wait=load,vector ub_address=-0x10 x_count=4\n"
    assert disassemble([instruction("halt")]) == "halt\n"


def test_comments_blank_lines_and_number_forms() -> None:
    text = "; a program\n\n  tag tag=0x3 ; layer\nmatmul wait=0b10001 x_count=+4\n\thalt\n"
    expected = [
        instruction("tag", tag=3),
        instruction("matmul", wait=17, x_count=4),
        instruction("halt"),
    ]
    assert assemble(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("halt\n  matmull", r"line 2, column 3: unknown operation \(nearest: matmul.*'matmull'"),
        ("xyzzy", r"line 1, column 1: unknown operation \(known: nop, halt"),
        ("matmul k_lst=3", r"column 8: matmul has no such field \(nearest: k_last.*'k_lst=3'"),
        ("matmul wait=load,vektor", r"column 18: unknown unit \(nearest: vector\): 'vektor'"),
        ("matmul x_count=ten", r"column 16: a number is decimal, 0x... or 0b..., not: 'ten'"),
        ("matmul x_count=1_0", "a number is decimal"),
        ("matmul x_count=65536", r"matmul: x_count must lie in 0..65535, not: '65536'"),
        ("matmul y_start=-32769", r"y_start must lie in -32768..32767"),
        ("matmul x_count=1 x_count=1", "x_count is given twice"),
        ("matmul x_count", "expected field=value, found: 'x_count'"),
        (".word", "one number must follow"),
        (".word 0x1" + "0" * 128, "a word has 512 bits"),
        ("nop\n.word 0xff", r"line 2, column 1: the word does not decode \(unknown opcode 0xff"),
        ("tag tag=" + "9" * 100_000, "a number is decimal"),
    ],
)
def test_errors_say_where_and_what_is_near(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assemble(text)


@given(st.lists(st.binary(min_size=64, max_size=64), max_size=4))
def test_any_bytes_round_trip_as_code(words: list[bytes]) -> None:
    code = np.frombuffer(b"".join(words), np.uint8).reshape(-1, 64)
    np.testing.assert_array_equal(assemble_code(disassemble_code(code)), code)


@given(st.text(max_size=60))
def test_any_text_gives_instructions_or_an_input_error(text: str) -> None:
    try:
        items = assemble(text)
    except InputError:
        return
    assert assemble(disassemble(items)) == items


def test_word_of_a_reserved_bit_reaches_the_machine_as_a_fault() -> None:
    code = assemble_code(".word 0x100000000000000000000000000\n")
    assert decode_fault(code[0].tobytes(), PRESETS["nano"]) is not None


def programs() -> st.SearchStrategy[Program]:
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    windows = st.lists(
        st.builds(
            lambda name, size: Window(name=name, size_bytes=size), names, st.integers(1, 9999)
        ),
        max_size=8,
    )
    machines = st.sampled_from(
        [*PRESETS.values(), dataclasses.replace(PRESETS["nano"], rows=10, name="odd")]
    )

    def build(arch, words, image, start, windows):  # type: ignore[no-untyped-def]
        code = np.frombuffer(b"".join(words), np.uint8).reshape(-1, 64)
        return Program(
            arch=arch,
            code=code,
            weight_image=np.frombuffer(image, np.uint8),
            weight_memory_bytes=max(1, len(image), 64 * start + code.size),
            code_address=64 * start,
            windows=tuple(windows),
        )

    sparse = st.builds(
        lambda before, data: bytes(before) + data, st.integers(0, 99), st.binary(max_size=99)
    )
    words = st.lists(st.binary(min_size=64, max_size=64), max_size=3)
    return st.builds(build, machines, words, sparse, st.integers(0, 5), windows)


@given(programs())
def test_programs_round_trip_as_text(program: Program) -> None:
    again = parse_program(format_program(program))
    assert again.arch == program.arch
    assert again.windows == program.windows
    assert again.code_address == program.code_address
    assert again.weight_memory_bytes == program.weight_memory_bytes
    np.testing.assert_array_equal(again.code, program.code)
    np.testing.assert_array_equal(again.weight_image, program.weight_image)


HEAD = ".systol 1\n.arch nano\n.weight_memory 256\n.code_address 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a line .code"),
        (".code\nhalt", "needs a line .systol before .code"),
        (".systol 2", r"line 1, column 9: this Systol reads text version 1, not: '2'"),
        (".systol 1\n.arch edge61", r"line 2, column 7: unknown preset \(nearest: edge16"),
        (".arch {\"rows\": 3}", "not a machine"),
        (".arch {rows}", "not JSON"),
        (".windw a 3", r"unknown directive \(nearest: .window"),
        (".window a", "2 values must follow, not 1"),
        (".window \"\\x\" 3", "not a JSON string"),
        (HEAD + ".weight_image 4\n.bytes 2 010203", "3 bytes do not fit the weight image of 4"),
        (HEAD + ".weight_image 4\n.bytes 0 0g", "expected pairs of hexadecimal digits"),
        (HEAD + ".code\nhalt now", "expected field=value"),
        (HEAD + ".weight_memory 0x8000000000", "must lie in 0..2147483648"),
    ],
)
def test_program_text_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_program(text)


@given(st.text(alphabet=st.sampled_from('.arch {}"\\;0x\nsystol 1nao'), max_size=80))
def test_any_program_text_gives_a_program_or_a_systol_error(text: str) -> None:
    try:
        parse_program(text)
    except SystolError:
        return
    raise AssertionError("such a short text cannot hold every directive")


HEAD = ".systol 1\n.arch nano\n.weight_memory 64\n.code_address 0\n"
LONG = 1_000_000
LONG_TEXTS = {
    "open strings": HEAD + '.window \\' + '"\\' * LONG,
    "open braces": HEAD + ".arch " + "{ " * LONG,
    "closed braces": HEAD + ".arch " + "{" * LONG + "}" * LONG,
    "strings": HEAD + ".window " + '"a"' * LONG,
    "a long directive": "." + "a" * LONG,
    "a long operation": HEAD + ".code\n" + "matmu" * LONG,
    "a long field": HEAD + ".code\nmatmul " + "k_las" * LONG + "=1",
    "a long unit": HEAD + ".code\nmatmul wait=" + "loa" * LONG,
    "many units": HEAD + ".code\nmatmul wait=" + "load," * LONG,
    "many fields": HEAD + ".code\nmatmul " + "k_last=1 " * LONG,
    "many digits": HEAD + ".code\n.word 0x" + "f" * LONG,
    "many windows": HEAD + ".window a 1\n" * (LONG // 10),
    "blanks": HEAD + " " * LONG + "\t" * LONG + "x",
    "a comment": HEAD + ";" * LONG + "\n.code\nhalt x",
    "lines": HEAD + "\n" * LONG,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", LONG_TEXTS)
def test_reading_takes_time_in_proportion(case: str) -> None:
    """What grows with the square of the text's length would take hours for these."""
    with pytest.raises(SystolError) as caught:
        parse_program(LONG_TEXTS[case])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("line", "column"), [('.window "a', 9), (".arch {nano", 7), ('.window a" 5', 10)]
)
def test_what_does_not_end_is_named(line: str, column: int) -> None:
    message = f"line 5, column {column}: what begins here does not end in this line"
    with pytest.raises(InputError, match=message):
        parse_program(HEAD + line)


def test_zeros_of_weight_memory_are_not_touched() -> None:
    text = HEAD.replace("64", str(1 << 31)) + f".weight_image {1 << 31}\n.bytes 0x100000 07\n"
    before = _resident_bytes()
    memory = parse_program(text + ".code\nhalt\n").initial_weight_memory()
    assert memory.size == 1 << 31 and memory[1 << 20] == 7
    assert _resident_bytes() - before < 200 << 20


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
