"""Chooses the memory order of every tensor's axes."""

from systol_compiler.quantized.graph import MachinePart, QuantizedGraph


def memory_orders(graph: QuantizedGraph, part: MachinePart) -> dict[str, tuple[int, ...]]:
    """Memory order by tensor, outermost axis first.

    Layers say what they want of their operands and results (`Layer.orders`). What a layer writes
    lies as it writes it; an input of the part lies as its first reader wants it.
    """
    orders: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for layer in reversed(part.layers):
        results = [wanted.get(name) for name in layer.outputs]
        for name, order in zip(
            layer.inputs, layer.input_orders(graph.tensors, results), strict=True
        ):
            if order is not None:
                wanted[name] = order
    for name in (*part.inputs, *graph.constants):
        orders[name] = wanted.get(name) or tuple(range(len(graph.tensors[name].shape)))
    for layer in part.layers:
        given = [orders[name] for name in layer.inputs]
        hints = [wanted.get(name) for name in layer.outputs]
        for name, order in zip(
            layer.outputs, layer.output_orders(graph.tensors, given, hints), strict=True
        ):
            orders[name] = order
    return orders
