"""Repeated modules, and large memories, as instances: what is converted, and how often."""

from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, ResetInserter
from amaranth.lib.wiring import Component, In, Out

from systol_hw.arch import PRESETS
from systol_hw.rtl.emit import convert_blocks, convert_verilog
from systol_hw.rtl.parts.block_ram import BlockRam
from systol_hw.rtl.parts.convert_once import ModuleLibrary, converted_once


class Step(Component):  # type: ignore[misc]
    """Adds `amount` to `a`, a cycle later."""

    def __init__(self, amount: int):
        self.amount = amount
        super().__init__({"a": In(8), "o": Out(8)})

    @converted_once("amount")
    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.a + self.amount)
        return m


class Chain(Component):  # type: ignore[misc]
    """Steps of the given amounts, one behind the other, under a reset of their own."""

    def __init__(self, *amounts: int):
        self.amounts = amounts
        super().__init__({"a": In(8), "clear": In(1), "o": Out(8)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        inner = Module()
        m.submodules.inner = ResetInserter(self.clear)(inner)
        value: Any = self.a
        for k, amount in enumerate(self.amounts):
            inner.submodules[f"step_{k}"] = step = Step(amount)
            inner.d.comb += step.a.eq(value)
            value = step.o
        m.d.comb += self.o.eq(value)
        return m


def test_equal_components_are_one_module() -> None:
    library = ModuleLibrary()
    top = library.convert(Chain(1, 2, 1, 1), "chain")
    assert list(library.texts) == ["systol_Step_1", "systol_Step_2"]
    assert top.count("cell \\systol_Step_1 ") == 3
    assert top.count("cell \\systol_Step_2 ") == 1
    assert "$add" not in top
    for text in library.texts.values():
        assert text.count("cell $add ") == 1


def test_an_instance_is_reset_by_what_resets_its_surroundings() -> None:
    top = ModuleLibrary().convert(Chain(1), "chain")
    wrapper = next(part for part in top.split("\nmodule ") if "cell \\systol_Step_1" in part)
    assert "connect \\rst \\resetting" in wrapper
    assert "clear" in wrapper, "the inserted reset reaches the register that resets the instance"


def test_without_a_library_nothing_changes() -> None:
    text = rtlil.convert(Chain(1, 2), name="chain", emit_src=False)
    assert text.count("cell $add ") == 2
    assert "systol_Step" not in text


@pytest.mark.parametrize("read_enables", [True, False])
def test_a_block_ram_is_written_out_without_its_zeros(read_enables: bool) -> None:
    library = ModuleLibrary()
    memory = BlockRam(width=64, depth=1 << 20, granularity=8, read_enables=read_enables)
    text = library.convert(memory, "memory")
    assert len(text) < 20_000, "64 Mbit of zeros are not in it"
    (verilog,) = library.verilog.values()
    assert "reg [63:0] rows [0:1048575];" in verilog
    assert ("if (read_en[i])" in verilog) == read_enables


def test_a_machine_of_blocks_has_every_repeated_module_once() -> None:
    arch = PRESETS["nano"]
    text = convert_blocks(arch, True)
    modules = [line for line in text.splitlines() if line.startswith("module ")]
    assert len({line.split("(")[0] for line in modules}) == len(modules)
    blocks = [line for line in modules if line.startswith("module systol_ArrayBlock_")]
    assert len(blocks) == 1
    after = text.split(blocks[0])[1].lstrip().splitlines()[0]
    assert after == "/* verilator hier_block */"
    assert "hier_block" not in convert_verilog(arch, True)
    ports = text.split("module systol_machine(")[1].split(");")[0]
    flat = convert_verilog(arch, True).split("module systol_machine(")[1].split(");")[0]
    assert sorted(ports.replace(",", " ").split()) == sorted(flat.replace(",", " ").split())
