"""Which operators of an exported model multiply with weights, and which of them may do so in int8."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["Layer", "LeftOut", "fold_split_weights", "layers_of", "results_of"]

_WEIGHTED = ("Conv", "MatMul", "Gemm")
_BACKBONE = "backbone."


@dataclass(frozen=True)
class Layer:
    """One operator with constant weights.

    Attributes:
        name: of the module, such as "backbone.body.stem.conv".
        operator: "Conv", "MatMul" or "Gemm".
        input, weight, output: names of tensors of the graph.
        axis: of the weight, along which its output channels lie.
    """

    name: str
    operator: str
    input: str
    weight: str
    output: str
    axis: int


@dataclass(frozen=True)
class LeftOut:
    """A layer that stays in the precision of the export, and why."""

    name: str
    reason: str


def fold_split_weights(graph: onnx.GraphProto) -> None:
    """Weights that are cut out of a common constant become constants of their own.

    Exporters join convolutions of one input and leave the cutting of their weights to the runtime.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Split" and set(node.input) <= constants.keys()]:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        whole, sizes = (numpy_helper.to_array(constants[name]) for name in node.input)
        for name, part in zip(node.output, np.split(whole, np.cumsum(sizes)[:-1], axis=axis), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(part), name))
        graph.node.remove(node)
    _drop_unused(graph)


def layers_of(graph: onnx.GraphProto, *, matmul: bool) -> tuple[list[Layer], list[LeftOut]]:
    """The layers that may run in int8, in order, and those that never do.

    Args:
        graph: of an export.
        matmul: linear layers of the backbone too (those of transformers); else convolutions only.
    """
    layers, left_out = [], []
    ends = {layer.output for layer in _ends(graph)}
    for layer in _weighted(graph):
        if layer.operator != "Conv" and not (matmul and layer.name.startswith(_BACKBONE)):
            continue
        if layer.output in ends:
            left_out.append(LeftOut(layer.name, "last of a head: its output is a result"))
        else:
            layers.append(layer)
    return layers, left_out


def results_of(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors by which two versions of a model are compared: the head's own outputs and the state.

    Returns:
        Name of the module or output -> name of the tensor.
    """
    state = {output.name: output.name for output in graph.output if output.name.startswith("next_")}
    return {layer.name: layer.output for layer in _ends(graph)} | state


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _weighted(graph: onnx.GraphProto) -> list[Layer]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in _WEIGHTED and not node.domain]
    found = [node for node in nodes if node.input[1] in constants and node.input[0] not in constants]
    names = _unique(_module_name(node) for node in found)
    return [
        Layer(name, node.op_type, node.input[0], node.input[1], node.output[0], _output_axis(node, constants))
        for name, node in zip(names, found, strict=True)
    ]


def _output_axis(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else len(constants[node.input[1]].dims) - 1


def _module_name(node: onnx.NodeProto) -> str:
    """Of the parameter if it still has its own name, else of the scope that the exporter noted, else of the output."""
    if node.input[1].endswith(".weight"):
        return node.input[1].removeprefix("detector.").removesuffix(".weight")
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
    return modules[-1].removeprefix("detector.") if modules else node.output[0]


def _unique(names: Iterable[str]) -> list[str]:
    """The same names; what would stand twice gets a number."""
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return unique


def _ends(graph: onnx.GraphProto) -> list[Layer]:
    """Layers with no other layer after them."""
    by_output = {layer.output: layer for layer in _weighted(graph)}
    before_a_layer: set[str] = set()  # tensors that some layer depends on
    ends = []
    for node in reversed(graph.node):
        layer = by_output.get(node.output[0])
        leads_on = any(name in before_a_layer for name in node.output)
        if layer is not None and not leads_on:
            ends.append(layer)
        if layer is not None or leads_on:
            before_a_layer.update(node.input)
    return ends[::-1]
