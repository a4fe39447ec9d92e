"""Calibration data: what users may give, checked, as feeds of the model's own size."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from systol_compiler.calibrate.inputs.images import ImageFolder
from systol_compiler.graph.float_graph import Array, Graph
from systol_hw.errors import InputError

Values: TypeAlias = npt.NDArray[Any]
CalibrationData: TypeAlias = (
    Mapping[str, Values] | Values | Iterable[Mapping[str, Values]] | ImageFolder | Path | str
)
"""Samples by input name, each [samples, ...]; one array for a model of one input; an iterable of
such mappings; a folder of images; the path of an npz file; or the word "random"."""

Run: TypeAlias = tuple[dict[str, Array], int]
"""Feeds of one run, and how many of its samples count."""

RANDOM: Final = "random"
_RANDOM_RUNS: Final = 4
_RANDOM_SEED: Final = 0
_KEPT: Final = 32
"""Samples that stay in memory after the one pass, for what looks at the network again."""


class Samples:
    """Feeds of a graph, given once in full (`runs`) and from then on in part (`kept`).

    Attributes
    ----------
    note
        What the report should say of the data, or "".
    random
        Whether the values are drawn, and say nothing of accuracy.
    """

    def __init__(self, graph: Graph, data: CalibrationData | None, purpose: str, most: int) -> None:
        self._graph = graph
        self._purpose = purpose
        self._most = most
        self._size = _batch(graph)
        self._pieces = self._open(data)
        self._source = self._batches()
        self._ahead: list[Run] = []
        self._kept: list[Run] = []
        self._run = False
        self.count = 0
        self.note = ""
        self.random = isinstance(data, str) and data == RANDOM
        if self.random:
            self.note = (
                "calibrated on random values: cycles and bytes are those of real data, outputs "
                "mean nothing"
            )

    def runs(self) -> Iterator[tuple[dict[str, Array], int]]:
        """Feeds of the model's batch size, with how many of their samples count.

        A last, partial batch is filled up with samples from the start, whose rows do not count.
        Only the first iteration gives all; later ones give what `kept` does.

        Raises
        ------
        InputError
            Data is missing, empty, or of another name, type or shape than the model's inputs.
        """
        if self._run:
            yield from self._kept
            return
        self._run = True
        for feeds, rows in chain(self._ahead, self._source):
            if len(self._kept) * self._size < _KEPT:
                self._kept.append((feeds, rows))
            self.count += rows
            yield feeds, rows
            if self.count >= self._most:
                if next(self._pieces, None) is not None:
                    self.note = (
                        f"{self._purpose} stopped after {self.count} samples; "
                        "most_samples allows more"
                    )
                return
        if not self.count:
            raise InputError(
                f"{self._purpose}: there must be at least one sample, but there is none; pass "
                f"samples for {list(self._graph.inputs)} as arrays [samples, ...]"
            )

    def first(self, samples: int) -> list[Run]:
        """The first runs, as many as hold `samples`; `runs` will give them as well."""
        if self._run:
            return self.kept(samples)
        wanted = max(1, -(-samples // self._size)) - len(self._ahead)
        self._ahead += islice(self._source, max(wanted, 0))
        return self._ahead[: max(1, -(-samples // self._size))]

    def kept(self, samples: int) -> list[tuple[dict[str, Array], int]]:
        """The first runs that `runs` gave, as many as hold `samples` of them."""
        if not self._run:
            for _ in self.runs():
                pass
        return self._kept[: max(1, -(-samples // self._size))]

    def _batches(self) -> Iterator[tuple[dict[str, Array], int]]:
        pending: dict[str, Array] = {}
        first: dict[str, Array] | None = None
        for piece in self._pieces:
            pending = {
                name: np.concatenate([pending[name], value]) if name in pending else value
                for name, value in piece.items()
            }
            count = len(next(iter(pending.values())))
            whole = count // self._size * self._size
            for start in range(0, whole, self._size):
                batch = {n: v[start : start + self._size] for n, v in pending.items()}
                first = first or batch
                yield self._shaped(batch), self._size
            pending = {name: value[whole:] for name, value in pending.items()}
        rows = len(next(iter(pending.values()))) if pending else 0
        if rows:
            filler = first or pending
            batch = {
                name: np.take(
                    np.concatenate([value, filler[name]]), range(self._size), axis=0, mode="wrap"
                )
                for name, value in pending.items()
            }
            yield self._shaped(batch), rows

    def _shaped(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Own copies of the model's types, so that what is kept holds no larger array alive."""
        return {
            name: np.array(value, np.dtype(self._graph.types[name].dtype)).reshape(
                self._graph.types[name].shape
            )
            for name, value in batch.items()
        }

    def _open(self, data: CalibrationData | None) -> Iterator[dict[str, Array]]:
        """Checked pieces, each a number of samples for every input."""
        graph = self._graph
        if data is None:
            raise InputError(
                f"{self._purpose} of a float model needs sample inputs, but none were given; pass "
                f"samples for {list(graph.inputs)} as arrays [samples, ...], or \"random\" where "
                "only cycles matter"
            )
        if isinstance(data, str) and data == RANDOM:
            return iter([random_samples(graph, _RANDOM_RUNS * self._size, _RANDOM_SEED)])
        if isinstance(data, str | Path):
            return iter([self._check(_load_npz(Path(data), self._purpose))])
        if isinstance(data, ImageFolder):
            name = self._only_input("an image folder")
            return (self._check({name: image[None]}) for image in data)
        if isinstance(data, np.ndarray):
            return iter([self._check({self._only_input("one array"): data})])
        if isinstance(data, Mapping):
            return iter([self._check(data)])
        pieces = iter(data)
        head = list(islice(pieces, 1))  # what is wrong with the first is said at once
        return chain(map(self._check, head), map(self._check, pieces))

    def _only_input(self, what: str) -> str:
        if len(self._graph.inputs) != 1:
            raise InputError(
                f"{self._purpose}: {what} was given, but the model has inputs "
                f"{list(self._graph.inputs)}; pass a mapping from input name to array"
            )
        return self._graph.inputs[0]

    def _check(self, data: Mapping[str, Values]) -> dict[str, Array]:
        graph, purpose = self._graph, self._purpose
        if not isinstance(data, Mapping) or set(data) != set(graph.inputs):
            raise InputError(
                f"{purpose}: samples are named {sorted(data)}, but the model's inputs are "
                f"{sorted(graph.inputs)}; name every input once"
            )
        samples = {name: self._check_one(name, np.asarray(data[name])) for name in graph.inputs}
        counts = {name: len(value) for name, value in samples.items()}
        if len(set(counts.values())) != 1:
            raise InputError(
                f"{purpose}: every input needs the same number of samples, but there are "
                f"{counts}; pass matching arrays"
            )
        return samples

    def _check_one(self, name: str, value: Values) -> Array:
        kind, place = self._graph.types[name], f"{self._purpose}, input {name!r}"
        shape = kind.shape[1:] if self._batched else kind.shape
        if value.shape[1:] != shape or value.ndim != len(shape) + 1 or value.shape[0] == 0:
            raise InputError(
                f"{place}: samples must be [{', '.join(['samples', *map(str, shape)])}] with at "
                f"least one, but are {list(value.shape)}; reshape them"
            )
        wanted = np.dtype(kind.dtype)
        if np.issubdtype(wanted, np.floating):
            if not np.issubdtype(value.dtype, np.floating):
                raise InputError(
                    f"{place}: samples must be {wanted}, but are {value.dtype}; preprocess them "
                    "exactly as for the float model"
                )
            if not np.isfinite(value).all():
                raise InputError(
                    f"{place}: samples must be finite, but contain NaN or infinity; clean the data"
                )
        elif np.issubdtype(wanted, np.integer):
            limits = np.iinfo(wanted)
            if not np.issubdtype(value.dtype, np.integer) or (
                int(value.min()) < limits.min or int(value.max()) > limits.max
            ):
                raise InputError(
                    f"{place}: samples must be integers in {limits.min}..{limits.max}, but are "
                    f"{value.dtype} in {value.min()}..{value.max()}; give the model's own integers"
                )
        elif value.dtype.kind != wanted.kind:
            raise InputError(
                f"{place}: samples must be {wanted}, but are {value.dtype}; convert them"
            )
        return value

    @property
    def _batched(self) -> bool:
        return self._size > 1 or _shares_batch(self._graph)


def random_samples(graph: Graph, count: int, seed: int) -> dict[str, Array]:
    """Normal floats, bytes, truth values, and integers that index what the graph looks up."""
    rng = np.random.default_rng(seed)
    batched = _shares_batch(graph)
    samples: dict[str, Array] = {}
    for name in graph.inputs:
        kind = graph.types[name]
        dtype = np.dtype(kind.dtype)
        shape = (count, *(kind.shape[1:] if batched else kind.shape))
        if np.issubdtype(dtype, np.floating):
            samples[name] = rng.standard_normal(shape).astype(dtype)
        elif np.issubdtype(dtype, np.integer):
            samples[name] = rng.integers(0, _below(graph, name), shape).astype(dtype)
        elif dtype == np.bool_:
            samples[name] = rng.random(shape) < 0.5
        else:
            raise InputError(
                f"calibration, input {name!r}: random values of type {kind.dtype} mean nothing; "
                "give samples"
            )
    return samples


def _below(graph: Graph, name: str) -> int:
    """One more than the greatest index that the readers of an integer input allow."""
    dtype = graph.types[name].dtype
    limit = 256 if dtype == "uint8" else 128 if dtype == "int8" else 2
    reached, lookups = {name}, []
    for node in graph.nodes:
        if not reached.intersection(node.inputs):
            continue
        if node.op == "Gather" and node.inputs[1] in reached:
            shape = graph.types[node.inputs[0]].shape
            lookups.append(shape[int(node.attributes.get("axis", 0))])
        elif all(graph.types[out].dtype.startswith(("int", "uint")) for out in node.outputs if out):
            reached.update(node.outputs)
    return min(lookups, default=limit)


def _shares_batch(graph: Graph) -> bool:
    """Whether all inputs have one first dimension, over which samples can be spread."""
    sizes = {graph.types[name].shape[:1] for name in graph.inputs}
    return len(sizes) == 1 and sizes != {()}


def _batch(graph: Graph) -> int:
    """Samples of one run; 1 where inputs share no first dimension: then a sample is a run."""
    return graph.types[graph.inputs[0]].shape[0] if _shares_batch(graph) else 1


def _load_npz(path: Path, purpose: str) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array, not a mapping")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{purpose}: {str(path)!r} must be an npz file with one array for each input, but "
            f"reading it failed ({error}); write it with numpy.savez"
        ) from error
