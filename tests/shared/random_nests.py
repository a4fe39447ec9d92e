"""Random lowered networks over images: convolutions, sums, pools, tables, slices, branches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.matrix import MatrixNest, StoredWeights
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import image_operand
from systol_compiler.nests.vector import Binary, Copy, Requantize, Table
from systol_compiler.nests.view import View
from systol_compiler.nests.window import Window2D
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import Arch
from systol_hw.isa.choices import Function

CHANNELS_LAST = (0, 2, 3, 1)


class RandomNetwork:
    """A network drawn from `seed`; `lower(images)` gives its nests, `tensors(images)` its tensors.

    Tensors are [images, C, H, W], channels last in memory. `wide` allows values of 16 bits.
    """

    def __init__(self, seed: int, arch: Arch, *, layers: int, size: int, wide: bool = True) -> None:
        self.seed, self.arch, self.layers, self.size, self.wide = seed, arch, layers, size, wide

    def lower(self, images: int) -> LoweredNetwork:
        """The nests for a number of images: the same layers whatever it is."""
        return _Draw(self, images).network()

    def tensors(self, images: int) -> dict[str, QTensor]:
        """All tensors."""
        draw = _Draw(self, images)
        draw.network()
        return draw.tensors


class _Draw:
    def __init__(self, spec: RandomNetwork, images: int) -> None:
        self.spec, self.images, self.rng = spec, images, np.random.default_rng(spec.seed)
        self.tensors: dict[str, QTensor] = {}
        self.orders: dict[str, tuple[int, ...]] = {}
        self.builder = NestBuilder(spec.arch, self.tensors, self.orders)
        self.names: list[str] = []

    def _tensor(self, channels: int, height: int, width: int, bits: int = 8) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = QTensor(
            name=name, shape=(self.images, channels, height, width), scale=1.0, zero_point=0,
            width=bits,
        )
        self.orders[name] = CHANNELS_LAST
        return name

    def _like(self, source: str, bits: int) -> str:
        _, channels, height, width = self.tensors[source].shape
        return self._tensor(channels, height, width, bits)

    def network(self) -> LoweredNetwork:
        rng, size = self.rng, self.spec.size
        for _ in range(int(rng.integers(1, 3))):
            name = self._tensor(
                int(rng.integers(1, 20)), int(rng.integers(2, size)), int(rng.integers(2, size))
            )
            self.builder.add_input(name)
            self.names.append(name)
        kinds: list[Callable[[str], str | None]] = [
            self._conv, self._conv, self._conv, self._add, self._pool, self._table, self._rescale,
            self._slice,
        ]
        for number in range(self.spec.layers):
            self.builder.layer = f"layer{number}"
            source = self.names[-1] if rng.random() < 0.7 else str(rng.choice(self.names))
            kind = kinds[int(rng.integers(len(kinds)))]
            result = kind(source)
            if result is not None:
                self.names.append(result)
        return self._finish()

    def _finish(self) -> LoweredNetwork:
        builder = self.builder
        read = {op.buffer for nest in builder.nests for op in nest.reads}
        shown = 0
        for name in dict.fromkeys(self.names):
            view = builder.view(name)
            buffer = builder.buffers[view.buffer]
            if buffer.home is Home.INPUT or shown == 5:
                continue
            if view.buffer in read and name != self.names[-1] and self.rng.random() < 0.8:
                continue
            self._show(name)
            shown += 1
        if shown == 0:
            self._show(self.names[-1])
        used = {n for nest in builder.nests for n in nest.constants}
        used |= {nest.output.buffer for nest in builder.nests}
        used |= {op.buffer for nest in builder.nests for op in nest.reads}
        network = LoweredNetwork(
            name="random", images=self.images,
            buffers={k: b for k, b in builder.buffers.items() if k in used},
            nests=tuple(builder.nests),
        )
        network.verify()
        return network

    def _show(self, name: str) -> None:
        builder = self.builder
        builder.layer = f"{name}.output"
        builder.show_copy(name)
        buffer = builder.buffers[builder.view(name).buffer]
        builder.buffers[buffer.name] = replace(
            buffer, home=Home.OUTPUT, tensor=name, order=CHANNELS_LAST
        )

    def _image(self, name: str) -> View:
        return self.builder.view(name).transpose((0, 2, 3, 1))

    def _bits(self) -> int:
        return 16 if self.spec.wide and self.rng.random() < 0.2 else 8

    def _conv(self, source: str) -> str:
        rng, builder = self.rng, self.builder
        _, channels, height, width = self.tensors[source].shape
        view = builder.packed(self._image(source), (0, 1, 2, 3))
        kh, kw = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        stride, pad = int(rng.integers(1, 3)), int(rng.integers(0, 2))
        outputs = int(rng.choice([1, 3, 8, 20, 40]))
        rows = (height + 2 * pad - kh) // stride + 1
        columns = (width + 2 * pad - kw) // stride + 1
        bits = self._bits()
        if rows < 1 or columns < 1:
            kh = kw = stride = 1
            pad, rows, columns = 0, height, width
        result = self._tensor(outputs, rows, columns, bits)
        target = image_operand(builder.place(result).transpose((0, 2, 3, 1)))
        assert target is not None
        fold = rng.random() < 0.6
        weights = rng.integers(-127, 128, (kh * kw * channels, outputs)).astype(np.int8)
        builder.add(
            MatrixNest(
                name=builder.fresh(builder.layer), layer=builder.layer, source_nodes=(),
                output=target, input=builder.image(view), outputs=outputs, size=(rows, columns),
                steps=(stride, stride), taps=(kh, 1 if fold else kw), tap_steps=(1, 1),
                pads=(pad, pad), step_bytes=(kw if fold else 1) * channels,
                weights=StoredWeights(values=weights), tile_outputs=builder.arch.columns,
                parameters=builder.parameters(
                    rng.integers(-1000, 1000, outputs), rng.integers(1 << 16, 1 << 17, outputs),
                    np.full(outputs, 25 if bits == 8 else 19),
                ),
                zp_in=int(rng.integers(-128, 128)) if self.tensors[source].width == 8 else 0,
                zp_out=3 if bits == 8 else 0,
                lo=-100 if bits == 8 else -32639, hi=120 if bits == 8 else 32639,
            )
        )
        return result

    def _add(self, source: str) -> str | None:
        shape = self.tensors[source].shape
        partners = [
            name for name in self.names
            if self.tensors[name].shape == shape
        ]
        other = str(self.rng.choice(partners))
        bits = self._bits()
        result = self._like(source, bits)
        self.builder.elementwise(
            Binary(
                function=Function(int(self.rng.integers(0, 4))), a_zero_point=1, b_zero_point=-2,
                a_multiplier=77, b_multiplier=-45, shift=7,
            ),
            self.builder.place(result), self.builder.view(source), self.builder.view(other),
        )
        return result

    def _pool(self, source: str) -> str | None:
        rng = self.rng
        _, channels, height, width = self.tensors[source].shape
        kernel, stride, pad = int(rng.integers(1, 4)), int(rng.integers(1, 3)), 0
        if kernel == 3:
            pad = int(rng.integers(0, 2))
        rows, columns = ((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
        if rows < 1 or columns < 1:
            return None
        result = self._tensor(channels, rows, columns, self.tensors[source].width)
        operation: Copy | Requantize = Copy()
        if rng.random() < 0.5:
            operation = self.builder.rescale(3, 1 << 16, 19)
        self.builder.windowed(
            operation, self.builder.place(result).transpose((0, 2, 3, 1)),
            self._image(source),
            Window2D(kernel=(kernel, kernel), strides=(stride, stride), pads=(pad, pad)),
        )
        return result

    def _table(self, source: str) -> str:
        tensor = self.tensors[source]
        result = self._like(source, 8)
        wide = tensor.width == 16
        size = 514 if wide else 256
        data = self.rng.integers(0, 256, size, np.uint8)
        self.builder.elementwise(
            Table(table=self.builder.constant("table", data), wide=wide, shift=16 if wide else 8),
            self.builder.place(result), self.builder.view(source),
        )
        return result

    def _rescale(self, source: str) -> str:
        tensor, rng = self.tensors[source], self.rng
        bits = self._bits()
        result = self._like(source, bits)
        channels = tensor.shape[1]
        self.builder.elementwise(
            Requantize(
                parameters=self.builder.parameters(
                    rng.integers(-9, 9, channels), rng.integers(1 << 16, 1 << 17, channels),
                    np.full(channels, 17),
                )
            ),
            self.builder.place(result), self.builder.view(source), channel_axis=1,
        )
        return result

    def _slice(self, source: str) -> str | None:
        tensor, rng = self.tensors[source], self.rng
        _, channels, height, width = tensor.shape
        if channels < 2:
            return None
        first = int(rng.integers(0, channels - 1))
        size = int(rng.integers(1, channels - first + 1))
        result = self._tensor(size, height, width, tensor.width)
        self.builder.alias(result, self.builder.view(source).slice(1, first, size))
        return result
