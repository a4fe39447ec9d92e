"""The modes of operations: all combinations of their small fields, found again in code."""

from systol_hw.isa import decode, encode, instruction
from systol_hw.isa.operations import OPERATIONS
from systol_sim.fuzz.modes import mode_names, mode_of


def test_modes_are_all_combinations() -> None:
    names = list(mode_names())
    assert len(set(names)) == len(names)
    counts = {
        operation.name: sum(name.split()[1] == operation.name for name in names)
        for operation in OPERATIONS
    }
    assert {name: count for name, count in counts.items() if count} == {
        "set_config": 2,  # registers
        "read_weights": 2, "read_weights_ub": 2,  # transpose
        "matmul": 2 * 2 * 3,  # accumulate, unsigned activations, shift
        "requantize": 2 * 2 * 2 * 3,  # widths of operand and output, source, reduction
        "copy": 2 * 3 * 2 * 2,
        "fill": 3 * 2 * 3,  # width, and two fields that it must not look at
        "binary": 2 * 2 * 2 * 4,
        "table": 2 * 2 * 2,
    }


def test_an_instruction_has_the_mode_of_its_fields() -> None:
    item = instruction("matmul", accumulate=1, accumulate_shift=2, x_count=7, pad_value=-1)
    assert mode_of(encode(item)) == (
        "mode matmul accumulate=1 unsigned_activations=0 accumulate_shift=2"
    )
    assert mode_of(encode(instruction("halt"))) is None
    for name in ("binary", "copy", "set_config"):
        data = encode(instruction(name))
        assert mode_of(data) in set(mode_names())
        assert decode(data).operation.name == name
