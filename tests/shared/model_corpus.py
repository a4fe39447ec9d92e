"""The small models of tests/compiler/models, with inputs for each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

FOLDER: Final = Path(__file__).parent.parent / "compiler" / "models"


@dataclass(frozen=True, kw_only=True)
class CorpusModel:
    """One model of the corpus.

    Attributes
    ----------
    exporter
        "dynamo" and "torchscript" (PyTorch's newer and older one), or "hand".
    covers
        Operators and options that it is there for.
    shapes
        Values for its dynamic dimensions, as `import_onnx` takes them.
    inputs
        By name: "dtype", concrete "shape", and where they matter "below" (integers) or "low" and
        "high" (floats).
    """

    name: str
    exporter: str
    opset: int
    covers: tuple[str, ...]
    shapes: Mapping[str, int]
    inputs: Mapping[str, Mapping[str, Any]]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.onnx"

    def feeds(self, seed: int = 0) -> dict[str, Array]:
        """Random values for every input, of its own shape and type."""
        rng = np.random.default_rng(seed)
        return {name: _values(rng, kind) for name, kind in self.inputs.items()}


def _values(rng: np.random.Generator, kind: Mapping[str, Any]) -> Array:
    dtype, shape = np.dtype(kind["dtype"]), tuple(kind["shape"])
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        return rng.integers(kind.get("at_least", 0), kind.get("below", 100), shape).astype(dtype)
    if "low" in kind:
        return rng.uniform(kind["low"], kind["high"], shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def _read() -> tuple[CorpusModel, ...]:
    rows = json.loads((FOLDER / "index.json").read_text())
    return tuple(CorpusModel(**{**row, "covers": tuple(row["covers"])}) for row in rows)


CORPUS: Final = _read()
"""Every model, by name in alphabetical order."""
