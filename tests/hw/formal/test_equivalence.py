"""What is the same machine is proved to be; what is not, in whatever way, is not."""

from collections.abc import Callable
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systol_hw.errors import MissingToolError
from systol_hw.formal.equivalence import unproved_module
from systol_hw.formal.proof import require_tools

try:
    require_tools()
except MissingToolError as error:
    pytest.skip(str(error), allow_module_level=True)


class _Counter(wiring.Component):  # type: ignore[misc]
    """Counts to `top`, in a register that begins at `init`; `wide` has bits that stay zero."""

    def __init__(self, *, top: int = 9, init: int = 0, wide: int = 0) -> None:
        self.top, self.init, self.wide = top, init, wide
        super().__init__({"enable": In(1), "count": Out(4), "done": Out(1 + wide)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = Signal(4, init=self.init)
        m.d.comb += [self.count.eq(count), self.done.eq(count == self.top)]
        with m.If(self.enable):
            m.d.sync += count.eq(Mux(self.done == 1, 0, count + 1))
        return m


class _Around(wiring.Component):  # type: ignore[misc]
    """A counter within, whose count goes through `combine`, and a memory of what came out."""

    def __init__(
        self, counter: _Counter, combine: Callable[[Any, Any], Any], *, write: int = 1,
        content: int = 0,
    ) -> None:
        self.counter, self.combine, self.write, self.content = counter, combine, write, content
        super().__init__({"enable": In(1), "offset": In(4), "result": Out(4), "kept": Out(4)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.counter = counter = self.counter
        m.submodules.memory = memory = Memory(shape=4, depth=4, init=[0, self.content])
        read, write = memory.read_port(domain="comb"), memory.write_port()
        m.d.comb += [
            counter.enable.eq(self.enable),
            self.result.eq(Mux(counter.done, 0, self.combine(counter.count, self.offset))),
            write.addr.eq(self.offset),
            write.data.eq(self.result),
            write.en.eq(self.enable & self.write),
            read.addr.eq(self.offset),
            self.kept.eq(read.data),
        ]
        return m


def _add(count: Any, offset: Any) -> Any:
    return count + offset


def _design(
    combine: Callable[[Any, Any], Any] = _add, *, write: int = 1, content: int = 0, **counter: int
) -> str:
    around = _Around(_Counter(**counter), combine, write=write, content=content)
    text: str = rtlil.convert(around, name="top", emit_src=False)
    return text


@pytest.mark.parametrize(
    ("same", "keywords"),
    [
        ("everything", {}),
        ("a sum in another order", {"combine": lambda count, offset: offset + count}),
        ("a sum of complements", {"combine": lambda count, offset: ~(~count - offset)}),
        ("a port with a bit that stays zero", {"wide": 1}),
    ],
)
def test_the_same_machine(same: str, keywords: dict[str, Any]) -> None:
    assert unproved_module(_design(), _design(**keywords)) is None, same


@pytest.mark.parametrize(
    ("module", "keywords"),
    [
        # What another module gives is any value.
        ("top", {"combine": lambda count, offset: count - offset}),
        ("top", {"write": 0}),
        ("top", {"content": 5}),
        ("top.counter", {"top": 8}),
        ("top.counter", {"init": 1}),
        ("top", {"wide": 1, "combine": lambda count, offset: count + offset + 1}),
        ("top", {"wide": 1, "init": 3}),
    ],
)
def test_another_machine(module: str, keywords: dict[str, Any]) -> None:
    assert unproved_module(_design(), _design(**keywords)) == module
