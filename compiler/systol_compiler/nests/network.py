"""The lowered network of one machine segment: nests in order over buffers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.nest import Nest


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
                # A byte may be read as both halves of 16 bits.
                planes = (buffer.planes,) if operand is nest.output else (buffer.planes, 2)
                assert operand.byte_planes in planes, (nest.name, operand.buffer)
            for name in nest.constants:
                assert self.buffers[name].home is Home.CONSTANT, (nest.name, name)

    def __str__(self) -> str:
        lines = [f"lowered {self.name!r}, groups of {self.images} images {{"]
        lines += [f"  {buffer}" for buffer in self.buffers.values()]
        lines += [f"  {nest}" for nest in self.nests]
        return "\n".join([*lines, "}"])
