"""Joins nests where one instruction does the work of two."""

from dataclasses import replace

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.vector import Copy, VectorNest
from systol_compiler.nests.window import WHOLE
from systol_hw.arch import Arch
from systol_hw.isa.choices import Reduce


def fuse_pools(network: LoweredNetwork, arch: Arch) -> LoweredNetwork:
    """`network` with each maximum over windows that do not overlap taken from the accumulators, in
    the product's own requantization, if nothing else reads that product.

    It is exact because requantization is monotone (m > 0), and no position is computed twice.
    Windows that overlap stay apart: bands of the product would compute their rows again.
    """
    nests: list[Nest] = list(network.nests)
    gone: set[int] = set()
    for place, nest in enumerate(network.nests):
        if not isinstance(nest, VectorNest) or not _is_pool(nest):
            continue
        assert nest.a is not None
        name = nest.a.buffer
        writers = network.writers[name]
        if len(writers) != 1 or network.readers[name] != (place,):
            continue
        source = nests[writers[0]]
        if (
            network.buffers[name].home is Home.NONE
            and isinstance(source, MatrixNest)
            and not source.pooled
            and source.output == nest.a
            and len(source.output.planes) == len(nest.output.planes)
            and nest.window.taps <= arch.accumulator_bank_rows
        ):
            nests[writers[0]] = replace(
                source, output=nest.output, pool=nest.window,
                source_nodes=(*source.source_nodes, *nest.source_nodes),
            )
            gone.add(place)
    if not gone:
        return network
    kept = tuple(nest for place, nest in enumerate(nests) if place not in gone)
    used = {nest.output.buffer for nest in kept}
    used |= {operand.buffer for nest in kept for operand in nest.reads}
    used |= {name for nest in kept for name in nest.constants}
    buffers = {name: buffer for name, buffer in network.buffers.items() if name in used}
    return replace(network, nests=kept, buffers=buffers)


def _is_pool(nest: VectorNest) -> bool:
    window = nest.window
    least, greatest = (-128, 127) if nest.output.byte_planes == 1 else (-32639, 32639)
    return (
        nest.operation == Copy(reduce=Reduce.MAX)
        and window != WHOLE
        and all(window.kernel[axis] <= window.strides[axis] for axis in (0, 1))
        and window.dilations == (1, 1)
        and nest.lo <= least
        and nest.hi >= greatest
    )
