"""Components of which a machine has many equal ones, converted to Verilog once and instantiated.

Conversion costs time for every gate of every copy; so does Verilation. `elaborate` of a component
that repeats is decorated with `converted_once`, which changes nothing until a `ModuleLibrary` is
given to the conversion as its platform: then each copy becomes an instance of one module.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, Signal, Value
from amaranth.lib.wiring import Component, In

__all__ = ["ModuleLibrary", "converted_once"]


def converted_once(*parameters: str) -> Callable[[Any], Any]:
    """Decorate `elaborate` of a component that a machine holds many equal copies of.

    The component must have a clock, and must stay in its initial state in the first cycle after a
    reset whatever its inputs are in that cycle: an instance leaves its reset one cycle later.

    Parameters
    ----------
    parameters
        The attributes that, with the class, decide what the component is.
    """

    def decorate(elaborate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        @functools.wraps(elaborate)
        def instead(self: Component, platform: Any) -> Any:
            if isinstance(platform, ModuleLibrary) and platform.root is not self:
                return platform.instance(self, parameters)
            return elaborate(self, platform)

        return instead

    return decorate


class ModuleLibrary:
    """The platform of a conversion in which repeated components become instances.

    Members
    -------
    texts : dict[str, str]
        RTLIL by the name of the module that was converted once; a module stands after those that
        it instantiates.
    verilog : dict[str, str]
        Verilog of modules that are not converted, by name.
    root : Component or None
        What is being converted, and therefore not an instance.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.verilog: dict[str, str] = {}
        self.root: Component | None = None

    def convert(self, component: Component, name: str) -> str:
        """The RTLIL of `component`, without that of the modules in `texts`."""
        outer, self.root = self.root, component
        with _no_collection():
            text: str = rtlil.convert(component, name=name, platform=self, emit_src=False)
        self.root = outer
        return text

    def instance(self, component: Component, parameters: tuple[str, ...]) -> Module:
        """An instance of `component`'s module, which is converted if it is the first one."""
        values = (str(int(getattr(component, name))) for name in parameters)
        name = "_".join(("systol", type(component).__name__, *values))
        if name not in self.texts:
            self.texts[name] = self.convert(component, name)
        m = Module()
        # ResetInserter reaches this register, but not into an instance. And while an instance hangs
        # on no input of the machine, nothing in it has to be settled as those change.
        resetting = Signal(init=1)
        m.d.sync += resetting.eq(0)
        ports = {
            ("i_" if member.flow == In else "o_") + "__".join(map(str, path)): Value.cast(value)
            for path, member, value in component.signature.flatten(component)
        }
        m.submodules.instance = Instance(
            name, i_clk=ClockSignal(), i_rst=resetting, **ports
        )
        return m


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for garbage: a conversion keeps the millions of objects that it makes, and
    looking through them again and again takes as long as the conversion itself."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
