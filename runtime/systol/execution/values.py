"""The tensors of one run, by name: converted at the boundary when somebody asks."""

from collections.abc import Mapping

import numpy as np

from systol.execution.inputs import fill_up
from systol.execution.ranges import RangeWatch
from systol_compiler.binary.model import CompiledModel, MachineSegment
from systol_compiler.binary.window_bytes import from_window, to_window, window_size
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.numbers.limits import Array
from systol_hw.errors import InputError


class RunValues:
    """Real and quantized tensors of one run.

    Parameters
    ----------
    given
        The model's inputs, of its types: `items` items of them, where it counts items.
    items
        How many of the items were given by the user. The run is filled up with copies of the last
        one; what can be computed for the given ones alone is.
    watch
        Told of every real tensor that is quantized, without what fills the run up.
    """

    def __init__(
        self, model: CompiledModel, given: Mapping[str, Array], items: int, watch: RangeWatch
    ) -> None:
        self._model, self._items, self._watch = model, items, watch
        self._given = dict(given)
        self._real: dict[str, Array] = {}
        self.codes: dict[str, Array] = {}
        """Quantized tensors that are known by now, int8 or int16 in the axes' order."""

    def real(self, name: str) -> Array:
        """The real tensor `name`, of its whole shape: given, or dequantized from what the machine
        wrote."""
        if name not in self._real:
            if name in self._given:
                self._real[name] = self._filled(self._given[name])
            else:
                tensor = self._model.by_source[name]
                codes = self.codes[tensor.name]
                self._real[name] = dequantize(codes, tensor.scale, tensor.zero_point)
        return self._real[name]

    def own_real(self, name: str) -> Array:
        """The real tensor `name`, of the given items alone."""
        if name in self._given:
            return self._given[name]
        if name in self._real:
            return self.own(self._real[name])
        tensor = self._model.by_source[name]
        codes = self.own(self.codes[tensor.name])
        return dequantize(codes, tensor.scale, tensor.zero_point)

    def own(self, value: Array) -> Array:
        """What of `value` belongs to items that were given."""
        size = self._model.batch
        counted = size is not None and value.shape[:1] == (size,)
        return value[: self._items] if counted else value

    def _filled(self, value: Array) -> Array:
        size = self._model.batch
        return value if size is None else fill_up(value, size)

    def give(self, values: Mapping[str, Array]) -> None:
        """Note what a host segment computed.

        Raises
        ------
        InputError
            A value has another type than the model states.
        """
        for name, value in values.items():
            kind = self._model.real[name]
            if (value.dtype.name, value.shape) != (kind.dtype, kind.shape):
                raise InputError(
                    f"the host computed {name!r} as {value.dtype.name}{list(value.shape)}, and the "
                    f"model states {kind.dtype}{list(kind.shape)}; compile it again"
                )
            self._real[name] = value

    def quantized(self, name: str) -> Array:
        """The quantized tensor `name`: written by the machine, or quantized from its source."""
        if name not in self.codes:
            tensor = self._model.tensors[name]
            real = self.own_real(tensor.source)
            try:
                codes = quantize(real, tensor.scale, tensor.zero_point, tensor.width)
            except InputError as error:
                raise InputError(f"tensor {tensor.source!r}: {error}") from error
            self._watch.see(name, real)
            self.codes[name] = codes if codes.shape == tensor.shape else self._filled(codes)
        return self.codes[name]

    def window_contents(self, segment: MachineSegment) -> dict[str, Array]:
        """The bytes of the segment's windows, as far as its inputs reach: what lies behind them is
        zero, and an executor need not touch it."""
        contents: dict[str, Array] = {}
        ends: dict[str, int] = {}
        for binding in segment.inputs:
            end = binding.offset_bytes + window_size(self._model.tensors[binding.tensor])
            ends[binding.window] = max(end, ends.get(binding.window, 0))
        for binding in segment.inputs:
            tensor = self._model.tensors[binding.tensor]
            data = to_window(self.quantized(binding.tensor), tensor, binding.order)
            if ends[binding.window] == len(data):
                contents[binding.window] = data
                continue
            whole = contents.setdefault(
                binding.window, np.zeros(ends[binding.window], np.uint8)
            )
            whole[binding.offset_bytes : binding.offset_bytes + len(data)] = data
        return contents

    def take_windows(self, segment: MachineSegment, windows: list[Array]) -> None:
        """Note what the segment's program wrote to its windows (in the program's order)."""
        named = {
            window.name: data
            for window, data in zip(segment.program.windows, windows, strict=True)
        }
        for binding in segment.outputs:
            tensor = self._model.tensors[binding.tensor]
            end = binding.offset_bytes + window_size(tensor)
            data = named[binding.window][binding.offset_bytes : end]
            self.codes[binding.tensor] = from_window(data, tensor, binding.order)
