"""A compiled model: what the compiler makes, a binary holds and the runtime runs."""

from dataclasses import dataclass
from pathlib import Path

from systol_compiler.binary.check import check_network
from systol_compiler.binary.network import (
    Binding,
    HostSegment,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
    Network,
    Segment,
)
from systol_compiler.binary.writer import save

__all__ = [
    "Binding",
    "CompiledModel",
    "HostSegment",
    "LayerRange",
    "MachineSegment",
    "ModelInput",
    "ModelOutput",
    "Segment",
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CompiledModel(Network):
    """A network whose parts fit each other: checked at construction. Parameters as of `Network`.

    `binary.reader.load` reads one from a file.

    Raises
    ------
    InputError
        The parts do not fit each other: a tensor that nothing describes, that nothing wrote
        before it is read, that lies outside its window, a host graph that may not run, and so on.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self)

    def save(self, path: str | Path) -> None:
        """Write the binary (docs/binary.md), whole or not at all.

        Raises
        ------
        InputError
            The file cannot be written.
        """
        save(self, path)

    def __repr__(self) -> str:
        machine, host = len(self.machine_segments), len(self.host_segments)
        values = [
            *(f"{item.name}: {self.real[item.name]}" for item in self.inputs),
            "->",
            *(f"{item.name}: {self.real[item.tensor]}" for item in self.outputs),
        ]
        return (
            f"CompiledModel({self.name!r} for {self.arch.name}, {' '.join(values)}, "
            f"{machine} machine and {host} host segments)"
        )
