"""Damaged texts of every level: read, or refused with a reason, and never anything else."""

import random
import re
from functools import cache

import pytest

from level_texts import LevelText, graph_text, machine_texts, quantized_text
from random_models import random_model
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import import_graph
from systol_compiler.levels.graph import read_graph
from systol_compiler.levels.quantized import read_quantized
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, SystolError

LEVELS = ("graph", "quantized", "lowered", "tiled", "allocated", "scheduled")
SEEDS = (1, 4)
MUTANTS = 120
_PIECE = re.compile(r"\s+|[A-Za-z_]\w*|-?\d+(?:\.\d+)?|'[^']*'|.")
PIECES = (
    "0", "-1", "1", "2", "255", "1000000", "99999999999999", "-99999999999", "1.5", "1e400", "nan",
    "none", "true", "[", "]", "(", ")", "{", "}", "=", ",", ":", "..", "@00", "'", "''", "%", "%x",
    "i8[1x2]", "int8[0]", "int8[9x9] 1", "%'\\x00'", "\x00", "\u2028", "#", "[]", "[0, 1 .. 99]",
)  # fmt: skip


@cache
def level_texts() -> tuple[LevelText, ...]:
    found = []
    for seed in SEEDS:
        graph = import_graph(random_model(seed))
        quantized = quantize(
            graph, "random", QuantizationOptions(bias_correction=False)
        ).quantized
        found += [graph_text(graph), quantized_text(quantized)]
        found += machine_texts(quantized, PRESETS["nano"])
    return tuple(found)


def mutated(text: str, chance: random.Random) -> str:
    pieces = _PIECE.findall(text)
    for _ in range(chance.choice((1, 1, 1, 3))):
        place = chance.randrange(len(pieces))
        change = chance.randrange(5)
        if change == 0:
            pieces[place : place + chance.choice((1, 3, 20))] = []
        elif change == 1:
            pieces.insert(place, chance.choice(PIECES))
        elif change == 2:
            pieces[place] = pieces[chance.randrange(len(pieces))]
        else:
            pieces[place] = chance.choice(PIECES)
        if not pieces:
            break
    return "".join(pieces)


@pytest.mark.parametrize("level", LEVELS)
def test_damaged_texts(level: str) -> None:
    texts = [item for item in level_texts() if item.level == level]
    assert texts
    chance = random.Random(level)
    read = refused = 0
    for _ in range(MUTANTS):
        item = chance.choice(texts)
        text = mutated(item.text, chance)
        try:
            item.read(text)
            read += 1
        except SystolError as error:
            refused += 1
            assert str(error)
    assert refused > MUTANTS // 3 and read


def test_where_an_error_is() -> None:
    for item in level_texts():
        lines = item.text.split("\n")
        place = len(lines) // 2
        lines[place] += " ?"
        with pytest.raises(InputError, match=rf"^line {place + 1}, column \d+: "):
            item.read("\n".join(lines))


def test_long_texts_and_deep_ones_end_at_once() -> None:
    with pytest.raises(InputError, match="nested 40 deep"):
        read_graph("graph 'g' opset=21 { %y = Op() 'y' a=" + "[" * 1_000_000)
    with pytest.raises(InputError, match="nothing begins like this"):
        read_graph("graph 'g' opset=21 { %y = Op() 'y' a='" + "x" * 10_000_000)
    with pytest.raises(InputError, match="16777216 in all"):
        read_quantized(
            "quantized 'g' { const %c : i8[9999999x999] scale=1.0 zero_point=0 = "
            "int8[9999999x999] 1"
        )
