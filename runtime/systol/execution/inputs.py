"""What the user gives: checked against the model, and cut into runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from systol_compiler.binary.model import CompiledModel
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.limits import Array
from systol_hw.errors import InputError
from systol_hw.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What was given for one run: inputs of `items` items, or of exactly the model's shapes where
    that does not count items. The last run may have fewer items than the model takes."""

    arrays: dict[str, Array]
    items: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """All inputs by name, in the model's types; `count` items."""

    arrays: dict[str, Array]
    count: int
    size: int | None
    """Items of one run; None where the model does not count items."""

    @property
    def runs(self) -> int:
        """Runs that they take."""
        return 1 if self.size is None else -(-self.count // self.size)

    def batches(self) -> Iterator[Batch]:
        """One run after the other."""
        if self.size is None:
            yield Batch(arrays=self.arrays, items=1)
            return
        for start in range(0, self.count, self.size):
            items = min(self.size, self.count - start)
            arrays = {name: a[start : start + items] for name, a in self.arrays.items()}
            yield Batch(arrays=arrays, items=items)


def fill_up(array: Array, size: int) -> Array:
    """`array` with its last item again and again, up to `size` items: any other value might be one
    that the model cannot compute with."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def by_name(model: CompiledModel, inputs: Mapping[str, ArrayLike] | ArrayLike) -> dict[str, Array]:
    """`inputs` by name; one array stands for a model's only input.

    Raises
    ------
    InputError
        One array for a model of several inputs.
    """
    names = [item.name for item in model.inputs]
    if isinstance(inputs, Mapping):
        return {name: np.asarray(value) for name, value in inputs.items()}
    if len(names) != 1:
        raise InputError(
            f"the model has {len(names)} inputs ({', '.join(names)}); give their arrays by name"
        )
    return {names[0]: np.asarray(inputs)}


def check_inputs(model: CompiledModel, inputs: Mapping[str, Array]) -> Items:
    """The inputs in the model's types.

    Real inputs take numbers of any type. Integer and boolean ones take integers in their type's
    range, of any type. Where the model has items (`CompiledModel.batch`), an array may have any
    number of them, from 1.

    Raises
    ------
    InputError
        An input is missing, unknown, or of another shape or type; or inputs differ in their number
        of items.
    """
    names = [item.name for item in model.inputs]
    for name in inputs:
        if name not in names:
            raise InputError(
                f"the model has no input {name!r}{did_you_mean(name, names)}; its inputs are "
                f"{', '.join(names)}"
            )
    size = model.batch
    arrays: dict[str, Array] = {}
    for name in names:
        kind = model.real[name]
        rest = kind.shape if size is None else kind.shape[1:]
        wanted = f"{kind.dtype} [{', '.join(map(str, rest if size is None else ('n', *rest)))}]"
        if name not in inputs:
            raise InputError(f"input {name!r} is missing; give it as {wanted}")
        array = np.asarray(inputs[name])
        good = array.shape == kind.shape if size is None else (
            array.ndim == len(kind.shape) and array.shape[1:] == rest and len(array) > 0
        )
        if not good:
            text = f"input {name!r} must be {wanted}, not {list(array.shape)}"
            if size is None and array.shape[1:] == kind.shape[1:] and array.ndim:
                text += (
                    "; this model takes no other number of items, because not all of its inputs "
                    "and outputs begin with the same dimension"
                )
            raise InputError(text)
        arrays[name] = _converted(name, array, kind, wanted)
    counts = {len(array) for array in arrays.values()} if size is not None else {1}
    if len(counts) > 1:
        raise InputError(f"inputs must have equal first dimensions, not {sorted(counts)}")
    return Items(arrays=arrays, count=counts.pop(), size=size)


def _converted(name: str, array: Array, kind: TensorType, wanted: str) -> Array:
    dtype = np.dtype(kind.dtype)
    if array.dtype.kind not in ("fiub" if dtype.kind == "f" else "iub"):
        raise InputError(f"input {name!r} must be {wanted}, not of type {array.dtype}")
    if dtype.kind != "f" and array.dtype != dtype:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        least, greatest = int(array.min()), int(array.max())
        if least < low or greatest > high:
            raise InputError(
                f"input {name!r} must be {wanted}, in {low}..{high}; found {least} to {greatest}"
            )
    return array.astype(dtype, copy=False)
