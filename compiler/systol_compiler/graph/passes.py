"""Canonicalization: the pipeline from an imported graph to the few forms that quantization reads.

After `CANONICAL_PIPELINE`, machine operators have these forms and no others:

- Conv(x, weight, bias) with constant weight and bias, explicit pads, strides, dilations, group;
- Gemm(x, weight, bias) with constant weight [O, I] (transB=1, alpha=beta=1) and bias [O];
- Clip(x, least, greatest) with scalar constants (infinite where open);
- MaxPool(x) with explicit pads, strides, dilations; and Flatten(axis=1).

What a pass cannot bring into these forms it leaves alone; `rules` then names it.
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from systol_compiler.graph.clips import NormalizeClip, SinkClip
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.fold_affine import FoldAffine
from systol_compiler.graph.normalize import (
    NormalizeFlatten,
    NormalizeProducts,
    NormalizeWindows,
    RemoveDeadNodes,
    RemoveNoOps,
)


class Pass(Protocol):
    """A frozen object that rewrites a graph into an equivalent one; its fields are its options."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> Graph: ...


Observer = Callable[[str, Graph], None]
"""Called with a pass's name and the graph it gave: to verify, print or time between passes."""

CANONICAL_PIPELINE: Final[tuple[Pass, ...]] = (
    RemoveDeadNodes(),
    RemoveNoOps(),
    NormalizeFlatten(),
    NormalizeWindows(),
    NormalizeProducts(),
    # Needs the canonical products; gives the single biases that clips can then follow directly.
    FoldAffine(),
    NormalizeClip(),
    # After the clips are in one form: moves them up to the product that will absorb them.
    SinkClip(),
    # Clips that moved may now be neighbours.
    NormalizeClip(),
    RemoveDeadNodes(),
)


def run_pipeline(
    graph: Graph,
    pipeline: tuple[Pass, ...] = CANONICAL_PIPELINE,
    *,
    observer: Observer | None = None,
) -> Graph:
    """Run `pipeline` in order; `observer` sees the result of every pass."""
    for step in pipeline:
        # Damaged weights and negative variances give NaN or infinity here; `rules` names them.
        with np.errstate(all="ignore"):
            graph = step.run(graph)
        if observer is not None:
            observer(step.name, graph)
    return graph
