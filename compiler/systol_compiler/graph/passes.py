"""Canonicalization: the pipeline from an imported graph to the few forms that are compiled.

After `CANONICAL_PIPELINE`, operators have these forms; what a pass cannot bring into them it
leaves alone. Weights, biases and parameters named here are constants.

- Conv(x, weight, bias), ConvTranspose(x, weight, bias), MaxPool(x), AveragePool(x): attributes
  kernel_shape, strides, dilations, pads; group; output_padding; count_include_pad. No auto_pad,
  output_shape or ceil_mode; global pools are pools over the whole image. A Conv over three
  dimensions, of one group, is one of images whose channels are slices side by side.
- Gemm(x [N, I], weight [O, I], bias [O]) with transB=1; MatMul(a, b) for all other products, with
  a bias as the Add behind it.
- Add, Mul, Min and Max of two with a constant last; Sub(a, b) and Div(a, b) where b is no
  constant; Pow(x, exponent).
- Clip(x, least, greatest) with scalars, infinite where open: also Relu, Min and Max with numbers.
- Activations as one node: Gelu(approximate), Swish(alpha), Mish, HardSwish, HardSigmoid(alpha,
  beta), LeakyRelu(alpha), PRelu(x, slope), Elu, Selu, Celu, Sigmoid, Tanh, Softplus and others.
- LayerNormalization(x, scale, bias) and RMSNormalization(x, scale) with a negative axis;
  InstanceNormalization(x, scale, bias); GroupNormalization(x, scale, bias) with one scale for
  each channel. No BatchNormalization with constant statistics is left.
- Flatten(axis=1), or Reshape(x, shape) with a whole shape; Transpose(perm); Slice over all axes;
  Pad without crops; Gather(x, indices) of one axis where those are constant; Split(x, sizes).
- An attention mask is an Add of a finite constant before its Softmax; a number that scales the
  operands of a MatMul of two activations is one Mul behind it.
- Reductions keep their axes (keepdims=1), which are constants.
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.forms.clips import NormalizeClip, SinkClip
from systol_compiler.graph.forms.duplicates import MergeDuplicates
from systol_compiler.graph.forms.einsum import WriteEinsumAsMatMul
from systol_compiler.graph.forms.elementwise import NormalizeArithmetic, NormalizeReductions
from systol_compiler.graph.forms.fold_affine import FoldAffine
from systol_compiler.graph.forms.move_transposes import (
    AbsorbTransposes,
    LiftTransposes,
    SinkTransposes,
)
from systol_compiler.graph.forms.pool_first import PoolBeforePointwise
from systol_compiler.graph.forms.products import NormalizeProducts
from systol_compiler.graph.forms.reshapes import (
    NormalizeReshapes,
    NormalizeTransposes,
    SimplifyTransposes,
)
from systol_compiler.graph.forms.selections import NormalizeSelections
from systol_compiler.graph.forms.simplify import (
    FoldConstants,
    RemoveDeadNodes,
    RemoveNoOps,
    StateAttributes,
)
from systol_compiler.graph.forms.volumes import WriteVolumesAsImages
from systol_compiler.graph.forms.windows import MergePads, NormalizeWindows
from systol_compiler.graph.patterns.activations import RecognizeActivations
from systol_compiler.graph.patterns.attention import AddAttentionMasks, HoistFactors
from systol_compiler.graph.patterns.group_norm import RecognizeGroupNormalization
from systol_compiler.graph.patterns.local_response import RecognizeLocalResponse
from systol_compiler.graph.patterns.normalizations import RecognizeNormalizations


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
    StateAttributes(),
    NormalizeReshapes(),
    NormalizeSelections(),
    WriteEinsumAsMatMul(),
    MergeDuplicates(),
    NormalizeReductions(),
    NormalizeArithmetic(),
    # Formulas are compared in canonical arithmetic, before its factors go into products.
    RecognizeActivations(),
    RecognizeNormalizations(),
    NormalizeReshapes(),
    RecognizeGroupNormalization(),
    RemoveDeadNodes(),
    # Bounds of transposed data need no more than one form; then everything elementwise is known.
    NormalizeClip(),
    AddAttentionMasks(),
    NormalizeTransposes(),
    SimplifyTransposes(),
    SinkTransposes(),
    RemoveDeadNodes(),
    NormalizeTransposes(),
    LiftTransposes(),
    RemoveDeadNodes(),
    NormalizeTransposes(),
    # Means over the axes of an image may only now be such.
    NormalizeReductions(),
    NormalizeReshapes(),
    NormalizeProducts(),
    HoistFactors(),
    AbsorbTransposes(),
    FoldConstants(),
    NormalizeWindows(),
    MergePads(),
    RecognizeLocalResponse(),
    RemoveDeadNodes(),
    RemoveNoOps(),
    # Needs the canonical products; gives the single biases that clips can then follow directly.
    FoldAffine(),
    # With its affine neighbours in it; clips then move up to the images.
    WriteVolumesAsImages(),
    NormalizeClip(),
    # After the clips are in one form: moves them up to the product that will absorb them.
    SinkClip(),
    # Clips that moved may now be neighbours.
    NormalizeClip(),
    # What stands between a product and a pool has gone into the product.
    PoolBeforePointwise(),
    NormalizeReshapes(),
    NormalizeTransposes(),
    RemoveNoOps(),
    MergeDuplicates(),
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
        # Damaged weights and negative variances give NaN or infinity here; rules name them later.
        with np.errstate(all="ignore"):
            graph = step.run(graph)
        if observer is not None:
            observer(step.name, graph)
    return graph
