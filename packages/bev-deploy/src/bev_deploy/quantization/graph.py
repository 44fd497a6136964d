"""Graphs with explicit quantisation: QuantizeLinear and DequantizeLinear before the inputs and weights of layers.

Symmetric: every zero point is 0. Weights have a scale per output channel, activations one. Biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .layers import Layer
from .ranges import LEVELS

__all__ = ["REACHES", "SWITCHES", "quantized_model", "switchable_model"]

SWITCHES = "int8_layers"
REACHES = "int8_reaches"
_ZERO = "int8_zero"
_LEVELS = "int8_levels"
# Half precision reaches as far down as it can: its ordinary numbers end at weights of 8e-3.
_LEAST_SCALE = {np.float32: np.finfo(np.float32).tiny, np.float16: np.finfo(np.float16).smallest_subnormal}

_Message = TypeVar("_Message", onnx.ModelProto, onnx.NodeProto)


def quantized_model(model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """The same model with some layers in int8; weights that only these use are kept in int8 alone.

    Args:
        model: float; left as it is.
        layers: of it.
        ranges: largest magnitude by the name of the layer's input.
    """
    made = _copy(model)
    writer = _Writer(made.graph, ranges)
    by_output = {layer.output: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        layer = by_output.get(node.output[0])
        nodes += [node] if layer is None else writer.in_int8(node, layer)
    writer.finish(nodes)
    return made


def switchable_model(model: onnx.ModelProto, layers: Sequence[Layer]) -> onnx.ModelProto:
    """The same model with two more inputs: ``int8_layers`` (L,) bool says which layers run in int8, ``int8_reaches``
    (L,) float32 which magnitude of each one's input the eight bits reach.

    Args:
        model: float; left as it is.
        layers: of it, in the order of the switches.
    """
    made = _copy(model)
    writer = _Writer(made.graph, {})
    for name, kind in ((SWITCHES, onnx.TensorProto.BOOL), (REACHES, onnx.TensorProto.FLOAT)):
        made.graph.input.append(helper.make_tensor_value_info(name, kind, [len(layers)]))
    place_of = {layer.output: place for place, layer in enumerate(layers)}
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        place = place_of.get(node.output[0])
        nodes += [node] if place is None else writer.switched(node, layers[place], place)
    writer.finish(nodes)
    return made


class _Writer:
    """Adds nodes and constants for the layers of one graph; what two layers share is written once."""

    def __init__(self, graph: onnx.GraphProto, ranges: Mapping[str, float]) -> None:
        self._graph = graph
        self._ranges = ranges
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._written: set[str] = set()
        self._add(_ZERO, np.zeros((), dtype=np.int8))

    def in_int8(self, node: onnx.NodeProto, layer: Layer) -> list[onnx.NodeProto]:
        """The nodes that stand for a layer in int8, itself the last of them."""
        weight = numpy_helper.to_array(self._constants[layer.weight])
        activation, levels = f"{layer.input}_from_int8", f"{layer.weight}_from_int8"
        nodes = []
        if activation not in self._written:
            scale = f"{layer.input}_scale"
            self._add(scale, _scale(np.array(self._ranges[layer.input]), weight.dtype))
            nodes += _rounded(layer.input, scale, activation)
        if levels not in self._written:
            nodes.append(self._dequantized(layer, weight, levels))
        self._written |= {activation, levels}
        return [*nodes, _reading(node, activation, levels, node.output[0])]

    def switched(self, node: onnx.NodeProto, layer: Layer, place: int) -> list[onnx.NodeProto]:
        """A layer that runs as its switch and its reach say."""
        weight = numpy_helper.to_array(self._constants[layer.weight])
        names = {part: f"{part}_of_layer_{place}" for part in ("place", "on", "reach", "scale", "input", "weight")}
        self._add(names["place"], np.array(place, dtype=np.int64))
        self._add(_LEVELS, np.array(LEVELS, dtype=np.float32))
        in_int8 = [
            helper.make_node("Gather", [REACHES, names["place"]], [names["reach"]], axis=0),
            helper.make_node("Div", [names["reach"], _LEVELS], [f"{names['scale']}_float32"]),
            helper.make_node("Cast", [f"{names['scale']}_float32"], [names["scale"]], to=_onnx_type(weight.dtype)),
            *_rounded(layer.input, names["scale"], names["input"]),
            self._dequantized(layer, weight, names["weight"]),
            _reading(node, names["input"], names["weight"], f"{layer.output}_int8"),
        ]
        plain = _reading(node, layer.input, layer.weight, f"{layer.output}_float")
        return [
            helper.make_node("Gather", [SWITCHES, names["place"]], [names["on"]], axis=0),
            helper.make_node(
                "If", [names["on"]], [layer.output], then_branch=_branch(in_int8), else_branch=_branch([plain])
            ),
        ]

    def finish(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put nodes and constants into the graph, without constants that nothing uses any more."""
        nodes = [_copy(node) for node in nodes]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(nodes)
        used = {name for node in nodes for name in _inputs_of(node)}
        self._graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)

    def _dequantized(self, layer: Layer, weight: np.ndarray, made: str) -> onnx.NodeProto:
        """The node that makes a layer's weights from int8."""
        names = [f"{layer.weight}_{part}" for part in ("levels", "scale", "zero")]
        others = tuple(axis for axis in range(weight.ndim) if axis != layer.axis)
        scale = _scale(np.abs(weight).max(axis=others), weight.dtype)
        levels = np.rint(weight.astype(np.float32) / np.expand_dims(scale, others).astype(np.float32))
        self._add(names[0], levels.clip(-LEVELS, LEVELS).astype(np.int8))
        self._add(names[1], scale)
        self._add(names[2], np.zeros(len(scale), dtype=np.int8))
        return helper.make_node("DequantizeLinear", names, [made], f"{made}_dequantize", axis=layer.axis)

    def _add(self, name: str, values: np.ndarray) -> None:
        self._constants[name] = numpy_helper.from_array(values, name)


def _scale(largest: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Of the type of what is quantised, rounded up so that the largest value is reached; never 0."""
    largest = largest.astype(np.float32)
    scale = (largest / LEVELS).astype(dtype)
    short = scale.astype(np.float32) * LEVELS < largest
    return np.where(short, np.nextafter(scale, dtype.type(np.inf)), scale).clip(min=_LEAST_SCALE[dtype.type])


def _rounded(tensor: str, scale: str, made: str) -> list[onnx.NodeProto]:
    """Nodes that round a tensor to int8 and back."""
    levels = f"{made}_levels"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [levels], f"{made}_quantize"),
        helper.make_node("DequantizeLinear", [levels, scale, _ZERO], [made], f"{made}_dequantize"),
    ]


def _reading(node: onnx.NodeProto, tensor: str, weight: str, made: str) -> onnx.NodeProto:
    """The same operator on another input and other weights."""
    other = _copy(node)
    other.input[:2] = [tensor, weight]
    other.output[0] = made
    return other


def _onnx_type(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def _branch(nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    """What an If runs: the output of the last node."""
    name = nodes[-1].output[0]
    return helper.make_graph(nodes, f"{name}_branch", [], [onnx.ValueInfoProto(name=name)])


def _inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """Of a node and of what it runs inside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs_of(inner)


def _copy(message: _Message) -> _Message:
    made = type(message)()
    made.CopyFrom(message)
    return made
