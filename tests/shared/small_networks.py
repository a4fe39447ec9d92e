"""Small networks with seeded weights that use most of what quantization has to deal with."""

from typing import Any

import numpy as np
import numpy.typing as npt

from small_graphs import text_graph
from systol_compiler.graph.float_graph import Graph

Array = npt.NDArray[Any]


def weights(shape: tuple[int, ...], seed: int) -> Array:
    """Normal weights [O, ...] of variance 2 / inputs."""
    rng = np.random.default_rng(seed)
    deviation = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
    return np.asarray(rng.standard_normal(shape) * deviation, np.float32)


def residual_network(batch: int = 1) -> Graph:
    """Two convolutions with a residual, a host operator (CumSum) and a convolution behind it."""
    return text_graph(
        f"""residual (float[{batch}, 3, 8, 8] x) => (float[{batch}, 4, 8, 8] y) {{
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Relu(a)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r, w2, b2)
            s = Add(c, r)
            t = CumSum(s, axis)
            y = Conv <kernel_shape = [1, 1]> (t, w3)
        }}""",
        {
            "w1": weights((8, 3, 3, 3), 1), "b1": weights((8,), 2),
            "w2": weights((8, 8, 3, 3), 3), "b2": weights((8,), 4),
            "w3": weights((4, 8, 1, 1), 5), "axis": np.array(1, np.int64),
        },
    )  # fmt: skip


def images(count: int, seed: int, size: int = 8) -> Array:
    """Normal images [count, 3, size, size]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 3, size, size)).astype(np.float32)
