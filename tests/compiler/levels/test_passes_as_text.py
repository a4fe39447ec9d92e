"""Passes of every level on small texts: a level in, what the pass makes of it out."""

from collections.abc import Callable
from textwrap import dedent

import pytest

from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.forms.clips import NormalizeClip
from systol_compiler.graph.forms.duplicates import MergeDuplicates
from systol_compiler.graph.forms.fold_affine import FoldAffine
from systol_compiler.graph.forms.simplify import RemoveDeadNodes
from systol_compiler.graph.forms.windows import MergePads
from systol_compiler.graph.passes import Pass
from systol_compiler.levels.graph import read_graph
from systol_compiler.levels.lowered import read_lowered
from systol_compiler.levels.quantized import read_quantized
from systol_compiler.levels.scheduled import read_scheduled
from systol_compiler.levels.tiled import read_tiled
from systol_compiler.nests.fusion import fuse_pools
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.plan.choices import Choices
from systol_compiler.plan.fitting import plan_group
from systol_compiler.plan.tasks import Residency
from systol_compiler.program.tokens import synchronize
from systol_compiler.quantized.graph import MachinePart
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS
from systol_hw.errors import SystolError
from systol_hw.isa.assembly import disassemble

NANO = PRESETS["nano"]


def same(found: object, wanted: str) -> None:
    """Texts line by line, so that a difference shows."""
    assert str(found).splitlines() == dedent(wanted).strip().splitlines()


GRAPHS: tuple[tuple[tuple[Pass, ...], str, str], ...] = (
    (
        (NormalizeClip(), RemoveDeadNodes()),
        """
        graph 'g' opset=21 {
          input %x : float32[2x3]
          const %six = float32[] 6.0
          %r = Relu(%x) 'r' : float32[2x3]
          %y = Min(%r, %six) 'm' : float32[2x3]
          output 'y' = %y
        }
        """,
        """
        graph 'g' opset=21 {
          input %x : float32[2x3]
          const %m.least = float32[] 0.0
          const %m.greatest = float32[] 6.0
          %y = Clip(%x, %m.least, %m.greatest) 'm' from 'r', 'm' as 'Min' : float32[2x3]
          output 'y' = %y
        }
        """,
    ),
    (
        # 2 * (x * w + b) + 1, of which the convolution takes up everything.
        (FoldAffine(), RemoveDeadNodes()),
        """
        graph 'g' opset=21 {
          input %x : float32[1x1x4x4]
          const %w = float32[2x1x1x1] [1.0, -2.0]
          const %b = float32[2] [0.5, 0.25]
          const %two = float32[] 2.0
          const %one = float32[2x1x1] 1.0
          %c = Conv(%x, %w, %b) 'c' kernel_shape=[1, 1] strides=[1, 1] dilations=[1, 1]
              pads=[0, 0, 0, 0] group=1 : float32[1x2x4x4]
          %m = Mul(%c, %two) 'm' : float32[1x2x4x4]
          %y = Add(%m, %one) 'a' : float32[1x2x4x4]
          output 'y' = %y
        }
        """,
        """
        graph 'g' opset=21 {
          input %x : float32[1x1x4x4]
          const %c.weight = float32[2x1x1x1] [2.0, -4.0]
          const %c.bias = float32[2] [2.0, 1.5]
          %y = Conv(%x, %c.weight, %c.bias) 'c' from 'c', 'm', 'a' as 'Conv' dilations=[1, 1] group=1
              kernel_shape=[1, 1] pads=[0, 0, 0, 0] strides=[1, 1] : float32[1x2x4x4]
          output 'y' = %y
        }
        """,  # noqa: E501
    ),
    (
        (MergePads(), RemoveDeadNodes()),
        """
        graph 'g' opset=21 {
          input %x : float32[1x1x4x4]
          const %w = float32[1x1x3x3] 1.0
          const %b = float32[1] [0.0]
          const %pads = int64[8] [0, 0, 1, 2, 0, 0, 1, 0]
          %p = Pad(%x, %pads) 'p' mode='constant' : float32[1x1x6x6]
          %y = Conv(%p, %w, %b) 'c' kernel_shape=[3, 3] strides=[1, 1] dilations=[1, 1]
              pads=[0, 0, 0, 0] group=1 : float32[1x1x4x4]
          output 'y' = %y
        }
        """,
        """
        graph 'g' opset=21 {
          input %x : float32[1x1x4x4]
          const %w = float32[1x1x3x3] 1.0
          const %b = float32[1] [0.0]
          %y = Conv(%x, %w, %b) 'c' from 'p', 'c' as 'Conv' dilations=[1, 1] group=1 kernel_shape=[3, 3]
              pads=[1, 2, 1, 0] strides=[1, 1] : float32[1x1x4x4]
          output 'y' = %y
        }
        """,  # noqa: E501
    ),
    (
        (MergeDuplicates(), RemoveDeadNodes()),
        """
        graph 'g' opset=21 {
          input %x : float32[2x3]
          %a = Tanh(%x) 'first' : float32[2x3]
          %b = Tanh(%x) 'second' : float32[2x3]
          %y = Add(%a, %b) 'sum' : float32[2x3]
          output 'y' = %y
        }
        """,
        """
        graph 'g' opset=21 {
          input %x : float32[2x3]
          %a = Tanh(%x) 'first' : float32[2x3]
          %y = Add(%a, %a) 'sum' as 'Add' : float32[2x3]
          output 'y' = %y
        }
        """,
    ),
)


@pytest.mark.parametrize(("passes", "before", "after"), GRAPHS)
def test_graph(passes: tuple[Pass, ...], before: str, after: str) -> None:
    graph: Graph = read_graph(before)
    for step in passes:
        graph = step.run(graph)
    same(graph, after)


QUANTIZED = """
quantized 'g' {
  input %x : float32[1x4]
  real %y : float32[1x3]
  tensor %x : i8[1x4] scale=0.5 zero_point=2 of %x
  %y = linear(%x) 'fc' weights=int8[3x4] [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
      scales=float32[3] 1.0 bias=int32[3] [100, 200, 300] source_scale=0.5
      multipliers=int32[3] 65536 shifts=int32[3] 17 lo=-128 hi=127 contract=[1] rows=1
      : i8[1x3] scale=1.0 zero_point=-5 of %y
  output 'y' = %y
}
"""

LINEAR = """
lowered 'g' images=1 {
  buffer 'x' plane_bytes=4 home=input tensor='x' order=[0, 1]
  buffer 'y' plane_bytes=3 home=output tensor='y' order=[0, 1]
  buffer 'fc.parameters' plane_bytes=24 home=constant data=uint8[24] @e3993e5d1ac66a9a52b0
  matrix 'fc' layer='fc'
      output=(buffer='y', planes=[0], lines=1, positions=1, width=3, line_pitch=0, position_pitch=3)
      input=(buffer='x', planes=[0], lines=1, positions=1, width=4, line_pitch=0, position_pitch=4)
      outputs=3 size=[1, 1] step_bytes=4
      weights=StoredWeights(values=int8[4x3] [1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12]) tile_outputs=8
      parameters='fc.parameters' zp_in=2 zp_out=-5 lo=-128 hi=127
}
"""

# Every second column from the right of the upper rows is a view; only rescaling is work.
SLICED = """
quantized 'g' {
  input %x : float32[1x3x4x4]
  real %y : float32[1x3x2x2]
  tensor %x : i8[1x3x4x4] scale=0.5 zero_point=3 of %x
  %s = slice(%x) 's' parts=[[[2, (start=0, count=2)], [3, (start=3, count=2, step=-2)]]]
      : i8[1x3x2x2] scale=0.5 zero_point=3
  %y = rescale(%s) 'r' multiplier=65536 shift=17 lo=0 hi=127
      : i8[1x3x2x2] scale=1.0 zero_point=0 of %y
  output 'y' = %y
}
"""

VIEW = """
lowered 'g' images=1 {
  buffer 'x' plane_bytes=48 home=input tensor='x' order=[0, 1, 2, 3]
  buffer 'r.parameters' plane_bytes=8 home=constant data=uint8[8] [253, 255, 255, 255, 0, 0, 1, 17]
  buffer 'y' plane_bytes=12 home=output tensor='y' order=[0, 1, 2, 3]
  vector 'r' layer='r'
      output=(buffer='y', planes=[0, 4, 8], lines=2, positions=2, width=1, line_pitch=2, position_pitch=1)
      operation=Requantize(parameters='r.parameters', reduce=mean)
      a=(buffer='x', planes=[3, 19, 35], lines=2, positions=2, width=1, line_pitch=4, position_pitch=-2)
      lo=0
}
"""  # noqa: E501


@pytest.mark.parametrize(("before", "after"), [(QUANTIZED, LINEAR), (SLICED, VIEW)])
def test_lowering(before: str, after: str) -> None:
    graph = read_quantized(before)
    (part,) = graph.parts
    assert isinstance(part, MachinePart)
    same(lower(graph, part, NANO), after)


POOLED = """
lowered 'g' images=1 {{
  buffer 'x' plane_bytes=128 home=input tensor='x' order=[0, 1, 2, 3]
  buffer 'c.parameters' plane_bytes=64 home=constant data=uint8[64] 0
  {middle}buffer 'y' plane_bytes=32 home=output tensor='y' order=[0, 1, 2, 3]
  matrix 'c'{sources} layer='c'
      output={output}
      input=(buffer='x', planes=[0], lines=4, positions=4, width=8, line_pitch=32, position_pitch=8)
      outputs=8 size=[4, 4] step_bytes=8 weights=StoredWeights(values=int8[8x8] 1) tile_outputs=8
      parameters='c.parameters' zp_in=0 zp_out=0 lo=-128 hi=127{pool}
}}
"""
SEPARATE = """  vector 'p' layer='p'
      output=(buffer='y', planes=[0], lines=2, positions=2, width=8, line_pitch=16, position_pitch=8)
      operation=Copy()
      a=(buffer='m', planes=[0], lines=4, positions=4, width=8, line_pitch=32, position_pitch=8)
      window=(kernel=[2, 2], strides=[{stride}, {stride}])
}}"""  # noqa: E501


def product_and_pool(stride: int) -> LoweredNetwork:
    text = POOLED.format(
        middle="buffer 'm' plane_bytes=128\n  ", sources="", pool="",
        output="(buffer='m', planes=[0], lines=4, positions=4, width=8, line_pitch=32, "
        "position_pitch=8)",
    )
    return read_lowered(text.rstrip().removesuffix("}") + SEPARATE.format(stride=stride))


def test_a_pool_is_taken_from_the_accumulators() -> None:
    same(
        fuse_pools(product_and_pool(2), NANO),
        POOLED.format(
            middle="", sources=" from 'c', 'p'", pool=" pool=(kernel=[2, 2], strides=[2, 2])",
            output="(buffer='y', planes=[0], lines=2, positions=2, width=8, line_pitch=16, "
            "position_pitch=8)",
        ),
    )


def test_a_pool_of_overlapping_windows_stays_apart() -> None:
    network = product_and_pool(1)
    assert fuse_pools(network, NANO) is network


TILED = """
tiled 'g' images=1 residency=() {
  stage 'fc'
    task 'fc' 0
        tile=(box=[[0, 1], [0, 1], [0, 1], [0, 3]], unit=[[0, 1], [0, 1], [0, 1], [0, 3]], steps=[(tiles=[0], reduction=[0, 1], turn=0, accumulator=0, accumulate=false, finish=true)])
        output=(key='y') reads=[(key='x')] constants=[(key='0/fc.parameters')]
        loads=[(operand=(buffer='x', planes=[0], lines=1, positions=1, width=4, line_pitch=4, position_pitch=4), box=[[0, 1], [0, 1], [0, 1], [0, 4]], place=(key='x')), (operand=(buffer='fc.parameters', planes=[0], lines=1, positions=1, width=24, line_pitch=24, position_pitch=24), box=[[0, 1], [0, 1], [0, 1], [0, 24]], place=(key='0/fc.parameters'))]
        step_loads={}
        stores=[(operand=(buffer='y', planes=[0], lines=1, positions=1, width=3, line_pitch=0, position_pitch=3), box=[[0, 1], [0, 1], [0, 1], [0, 3]], place=(key='y'))]
}
"""  # noqa: E501


def lowered_linear() -> LoweredNetwork:
    graph = read_quantized(QUANTIZED)
    (part,) = graph.parts
    assert isinstance(part, MachinePart)
    return lower(graph, part, NANO)


def test_tiling_and_what_follows_from_its_text() -> None:
    network = lowered_linear()
    plan = plan_group(network, NANO, {}, Choices(), Residency())
    same(plan, TILED)
    again = read_tiled(TILED, network)
    assert again.uses == plan.uses and again.pressure(0) == 4 + 24 + 3


SCHEDULED = """
scheduled {
  nest 'fc' stage 0
    load    read_host run_bytes=4
    load    read_weight_memory ub_address=0x40 run_bytes=24
    weights read_weights address=0x40 row_pitch=3 k_last=4 n_last=3
    matrix  matmul k_last=4
    vector  requantize n_last=3 out_address=0x20 parameter_address=0x40
    store   write_host ub_address=0x20 run_bytes=3
}
"""

SYNCHRONIZED = """
read_host run_bytes=4 signal=matrix
read_weight_memory ub_address=0x40 run_bytes=24 signal=vector
read_weights address=0x40 row_pitch=3 k_last=4 n_last=3
matmul k_last=4 wait=load signal=vector
requantize n_last=3 out_address=0x20 parameter_address=0x40 wait=load,matrix signal=store
write_host ub_address=0x20 run_bytes=3 wait=vector
"""


def test_tokens() -> None:
    nests = {nest.name: nest for nest in lowered_linear().nests}
    order = read_scheduled(SCHEDULED, nests)
    order.verify()
    code, _ = synchronize(NANO, [item.instruction for item in order.items])
    found = [sorted(line.split()) for line in disassemble(code).splitlines()]
    assert found == [sorted(line.split()) for line in SYNCHRONIZED.strip().splitlines()]


CHECKS: tuple[tuple[Callable[[str], object], str, str], ...] = (
    (read_quantized, QUANTIZED.replace("zero_point=2", "zero_point=200"), "zero point lies in"),
    (read_quantized, QUANTIZED.replace("linear(", "lineal("), "line 6, column 3: layers are"),
    (read_quantized, QUANTIZED.replace("contract=[1] ", ""), "Linear needs contract"),
    (read_quantized, QUANTIZED.replace("65536", "5"), "'fc': multipliers must lie in 65536"),
    (read_quantized, QUANTIZED.replace("i8[1x3]", "i8[1x4]"), "layer 'fc'"),
    (read_quantized, QUANTIZED.replace("(%x)", "(%z)"), "'fc': nothing describes tensor 'z'"),
    (read_quantized, QUANTIZED.replace("i8[1x4]", "i4[1x4]"), "of i8 or i16, not: 'i4"),
    (read_lowered, SLICED, "line 2, column 1: expected 'lowered', found: 'quantized'"),
    (read_lowered, VIEW.replace("[253, 255, 255, 255, 0, 0, 1, 17]", "@0e"), "no array beside"),
    (read_graph, GRAPHS[0][1].replace("%r, %", "%y, %"), r"'m' .*nothing before it defines"),
    (read_graph, GRAPHS[0][1].replace("output", "outputs"), "line 7, column 23: expected a word"),
)


@pytest.mark.parametrize(("read", "text", "message"), CHECKS)
def test_wrong_levels_are_refused(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(SystolError, match=message):
        read(text)
