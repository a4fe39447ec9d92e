"""Keeps what does not fit the unified buffer in weight memory, and streams it through in bands.

A *streamed* buffer never lies in the unified buffer as a whole. A convolution that reads it loads
the lines of one band of chunks at a time into one of two stages by turns; one that writes it
requantizes into a stage and stores the band. Model inputs stream from their host window.
"""

from dataclasses import dataclass

from systol_compiler.instructions import first_line, last_line
from systol_compiler.tiling import Chunk, TiledNetwork
from systol_compiler.work import LoweredNetwork, MatrixWork

STAGES = 2


@dataclass(frozen=True, kw_only=True)
class Spills:
    """The streamed buffers of a network.

    Attributes
    ----------
    names
        The streamed buffers.
    homes
        Offset of each written one behind the weight image.
    size_bytes
        Weight memory that they take.
    """

    names: frozenset[str] = frozenset()
    homes: tuple[tuple[str, int], ...] = ()
    size_bytes: int = 0

    def home(self, name: str) -> int:
        """The offset of `name`."""
        return dict(self.homes)[name]


NO_SPILLS = Spills()


def stage_key(name: str, work: str, direction: str, stage: int) -> str:
    """The allocation's name of one stage."""
    return f"{name}:{direction}:{work}:{stage}"


def can_stream(network: LoweredNetwork, name: str) -> bool:
    """Whether only convolutions of one plane read and write the buffer."""
    users = [work for work in network.works if name in (work.input, work.output)]
    return all(
        isinstance(work, MatrixWork) and not work.streams and work.planes == 1 for work in users
    )


def plan_spills(network: LoweredNetwork, names: frozenset[str]) -> Spills:
    """Homes in weight memory for those of `names` that a layer writes."""
    homes: list[tuple[str, int]] = []
    end = 0
    for name in sorted(names):
        if name not in network.inputs:
            homes.append((name, end))
            end += -(-network.buffers[name].size_bytes // 64) * 64
    return Spills(names=names, homes=tuple(homes), size_bytes=end)


def lines_of(work: MatrixWork, chunk: Chunk) -> tuple[int, int]:
    """Half-open range of the input lines that a chunk reads (at least one)."""
    first = min(first_line(work, chunk), work.lines - 1)
    return first, max(last_line(work, chunk), first + 1)


def stage_bytes(tiled: TiledNetwork, work: MatrixWork, direction: str) -> int:
    """Bytes of one stage: the greatest band of input lines, or of output rows."""
    chunks = next({s.chunk for s in t.steps} for t in tiled.works if t.work is work)
    if direction == "in":
        return max(high - low for low, high in (lines_of(work, c) for c in chunks)) * (
            work.line_bytes
        )
    rows = max(c.rows[1] - c.rows[0] for c in chunks)
    return rows * work.out_size[1] * work.out_channels
