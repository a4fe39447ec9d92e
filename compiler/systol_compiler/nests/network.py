"""The lowered network of one machine segment: nests in order over buffers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.operand import Operand
from systol_compiler.text.arrays import Arrays
from systol_compiler.text.form import Printer
from systol_compiler.text.statement import wrapped
from systol_compiler.text.tokens import quote


def planes_fit(operand: Operand, buffer: Buffer, *, written: bool) -> bool:
    """Whether a buffer has the planes of an operand. A byte may be read as both halves of 16 bits,
    but is written as one."""
    return operand.byte_planes == buffer.planes or (not written and operand.byte_planes == 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredNetwork:
    """A machine segment for `images` images at a time; `str` prints it.

    Every byte of a buffer that is read is written before, by a nest or by its home.
    """

    name: str
    images: int
    buffers: Mapping[str, Buffer]
    nests: tuple[Nest, ...]

    def of_home(self, home: Home) -> tuple[Buffer, ...]:
        """The buffers of one kind, in order."""
        return tuple(buffer for buffer in self.buffers.values() if buffer.home is home)

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """Places of the nests that read each buffer as activations."""
        table: dict[str, list[int]] = {name: [] for name in self.buffers}
        for place, nest in enumerate(self.nests):
            for name in dict.fromkeys(operand.buffer for operand in nest.reads):
                table[name].append(place)
        return {name: tuple(places) for name, places in table.items()}

    @cached_property
    def writers(self) -> Mapping[str, tuple[int, ...]]:
        """Places of the nests that write each buffer."""
        table: dict[str, list[int]] = {name: [] for name in self.buffers}
        for place, nest in enumerate(self.nests):
            table[nest.output.buffer].append(place)
        return {name: tuple(places) for name, places in table.items()}

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of one group."""
        return sum(nest.macs for nest in self.nests)

    def verify(self) -> None:
        """Check every nest's limits, and that operands lie in their buffers.

        Raises
        ------
        UnsupportedModelError
            An instruction field cannot hold a layer's figure.
        """
        for nest in self.nests:
            nest.verify()
            for operand, box in zip(
                (nest.output, *nest.reads), (nest.domain, *nest.needs(nest.domain)), strict=True
            ):
                low, high = operand.span(box)
                buffer = self.buffers[operand.buffer]
                assert 0 <= low and high <= buffer.plane_bytes, (nest.name, operand.buffer)
                assert planes_fit(operand, buffer, written=operand is nest.output), nest.name
            for name in nest.constants:
                assert self.buffers[name].home is Home.CONSTANT, (nest.name, name)

    def text(self, arrays: Arrays | None = None) -> str:
        """The network as text, which `levels.lowered.read_lowered` reads; `arrays` takes up the
        larger arrays, to which the text refers by digest."""
        printer = Printer(arrays)
        lines = [f"lowered {quote(self.name)} images={self.images} {{"]
        lines += [wrapped(buffer.text_parts(printer)) for buffer in self.buffers.values()]
        lines += [wrapped(nest.text_parts(printer)) for nest in self.nests]
        return "\n".join([*lines, "}"])

    def __str__(self) -> str:
        return self.text()
