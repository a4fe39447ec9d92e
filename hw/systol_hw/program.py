"""A program for one machine: code, weight memory and the host windows it may use."""

from dataclasses import dataclass

import numpy as np

from systol_hw.arch import ALL_WINDOWS, INSTRUCTION_BYTES, MEMORY_LIMIT_BYTES, Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, encode_program

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Window:
    """A host memory window that a program may read and write."""

    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Program:
    """Everything that an executor needs besides the windows' contents.

    Its arrays are not to be changed: executors remember what they worked out of a program.

    Parameters
    ----------
    arch
        The machine.
    code
        Encoded instructions, uint8 of shape (instructions, 64). Raw bytes, because a program from a
        stranger may hold what does not decode.
    weight_image
        Initial weight memory without the code, uint8 of shape (<= weight_memory_bytes,); the rest
        of weight memory is zero.
    weight_memory_bytes
        Size of weight memory.
    code_address
        Where the code stands in weight memory: a multiple of 64.
    windows
        Host windows by number; at most 16, the alternate set from number 8 on.
    """

    arch: Arch
    code: np.ndarray
    weight_image: np.ndarray
    weight_memory_bytes: int
    code_address: int
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            if not condition:
                raise InvalidProgramError(message)

        require(
            self.code.dtype == np.uint8
            and self.code.ndim == 2
            and self.code.shape[1] == INSTRUCTION_BYTES,
            f"code must be uint8 of shape (instructions, {INSTRUCTION_BYTES})",
        )
        require(
            self.weight_image.dtype == np.uint8 and self.weight_image.ndim == 1,
            "weight_image must be uint8 with one dimension",
        )
        end = self.code_address + self.code.size
        require(
            self.code_address >= 0 and self.code_address % INSTRUCTION_BYTES == 0,
            f"code_address must be a multiple of {INSTRUCTION_BYTES}, not {self.code_address}",
        )
        require(
            0 < self.weight_memory_bytes <= MEMORY_LIMIT_BYTES,
            f"weight_memory_bytes must lie in 1..2**31, not {self.weight_memory_bytes}",
        )
        require(
            max(end, self.weight_image.size) <= self.weight_memory_bytes,
            f"code (to {end}) and weight image ({self.weight_image.size} bytes) must fit weight "
            f"memory's {self.weight_memory_bytes} bytes",
        )
        require(
            len(self.windows) <= ALL_WINDOWS, f"at most {ALL_WINDOWS} host windows can be given"
        )
        for window in self.windows:
            require(
                0 < window.size_bytes <= MEMORY_LIMIT_BYTES,
                f"window {window.name!r}: size must lie in 1..2**31, not {window.size_bytes}",
            )

    def __repr__(self) -> str:
        windows = "".join(f", {w.name!r} of {w.size_bytes} bytes" for w in self.windows)
        return f"Program(for {self.arch.name}, {len(self.code)} instructions{windows})"

    def initial_weight_memory(self) -> np.ndarray:
        """A fresh copy of weight memory with the code in it: uint8, (weight_memory_bytes,)."""
        memory = np.zeros(self.weight_memory_bytes, np.uint8)
        # A text may state gigabytes of zeros: what is zero already is left untouched.
        for start in range(0, self.weight_image.size, _CHUNK_BYTES):
            chunk = self.weight_image[start : start + _CHUNK_BYTES]
            if chunk.any():
                memory[start : start + chunk.size] = chunk
        end = self.code_address + self.code.size
        memory[self.code_address : end] = self.code.reshape(-1)
        return memory

    def initial_windows(self, contents: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Windows filled from `contents` (any dtype, by window name); the rest is zero.

        Raises
        ------
        InvalidProgramError
            For a name that is no window, or contents that do not fit.
        """
        result = [np.zeros(window.size_bytes, np.uint8) for window in self.windows]
        names = [window.name for window in self.windows]
        for name, value in contents.items():
            if name not in names:
                raise InvalidProgramError(f"no window is called {name!r}; there are {names}")
            data = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
            target = result[names.index(name)]
            if data.size > target.size:
                raise InvalidProgramError(
                    f"window {name!r} has {target.size} bytes, not {data.size}"
                )
            target[: data.size] = data
        return result


def make_program(
    arch: Arch,
    instructions: list[Instruction],
    *,
    weight_image: np.ndarray | None = None,
    spare_weight_bytes: int = 0,
    windows: tuple[Window, ...] = (),
) -> Program:
    """A `Program` with `weight_image` first in weight memory, then `spare_weight_bytes` for spills,
    then the code."""
    image = np.zeros(0, np.uint8) if weight_image is None else weight_image
    data_end = image.size + spare_weight_bytes
    code_address = -(-data_end // INSTRUCTION_BYTES) * INSTRUCTION_BYTES
    code = encode_program(instructions)
    return Program(
        arch=arch,
        code=code,
        weight_image=image,
        weight_memory_bytes=max(1, code_address + code.size),
        code_address=code_address,
        windows=windows,
    )
