"""Whether TensorRT can read an ONNX file: checked without TensorRT.

Operators and types are compared with ``tensorrt_operators.tsv``. What TensorRT restricts beyond that is checked by
rules, for the operators that exports and quantised exports contain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from .plugin_node import PLUGIN_DOMAIN, PLUGIN_NAME

__all__ = ["lint_for_tensorrt"]

_NEWEST_OPSET = 24
_MOST_CANDIDATES = 3840  # of TopK
_MOST_LINEAR_AXES = 3  # that Resize may interpolate along
_RESIZE_PLACES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
# Which input the table's types are about, where it is not the first; -1 is the output.
_TYPED = {"Where": 1, "OneHot": 2, "Constant": -1, "ConstantOfShape": -1}
# Reductions and others that want their axes when the engine is built.
_CONSTANT_INPUTS = {"CumSum": 1, "Squeeze": 1, "Unsqueeze": 1, "OneHot": 1} | {
    f"Reduce{kind}": 1 for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
}


def lint_for_tensorrt(path: str | Path) -> list[str]:
    """What TensorRT would refuse in an ONNX file: one line each, none if all is well.

    Args:
        path: of the file.

    Raises:
        ValueError: no ONNX file.
    """
    try:
        model = onnx.load(path)
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # protobuf and onnx have no common base class
        raise ValueError(f"{path} cannot be read as an ONNX model ({error})") from None
    functions = {(function.domain, function.name) for function in model.functions}
    found = [
        f"opset {entry.version} is newer than {_NEWEST_OPSET}, the newest that TensorRT 10.15 reads"
        for entry in model.opset_import
        if not entry.domain and entry.version > _NEWEST_OPSET
    ]
    for function in model.functions:
        if (function.domain, function.name) != (PLUGIN_DOMAIN, PLUGIN_NAME):  # the plugin takes its place
            found += [line for node in function.node for line in _operator(node, functions)]
    return found + list(_graph(model.graph, _Known({}, {}), functions))


@dataclass(frozen=True)
class _Known:
    """What is known of the tensors of a graph, by name."""

    types: Mapping[str, onnx.TypeProto]
    constants: Mapping[str, TensorProto]

    def of(self, graph: GraphProto) -> _Known:
        """The same in a graph within."""
        listed = (*graph.input, *graph.output, *graph.value_info)
        types = {value.name: value.type for value in listed}
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
                constants[node.output[0]] = node.attribute[0].t
        types |= {
            name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            for name, tensor in constants.items()
        }
        return _Known({**self.types, **types}, {**self.constants, **constants})

    def type(self, name: str) -> str | None:
        """Such as "float32" or, whatever their exponents, "float8"."""
        kind = self.types[name].tensor_type.elem_type if name in self.types else 0
        return str(helper.tensor_dtype_to_np_dtype(kind)).partition("_")[0] if kind else None

    def rank(self, name: str) -> int | None:
        kind = self.types[name].tensor_type if name in self.types else None
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None

    def value(self, name: str) -> np.ndarray | None:
        """Of a constant."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None


def _graph(graph: GraphProto, outer: _Known, functions: set[tuple[str, str]]) -> Iterator[str]:
    known = outer.of(graph)
    wide = sorted({name for name in known.types if known.type(name) == "float64"})
    if wide:
        yield f"float64 is read as float32: {', '.join(wide[:5])}{' …' if len(wide) > 5 else ''}"
    for node in graph.node:
        where = _named(node)
        yield from _operator(node, functions)
        yield from (f"{where}: {reason}" for reason in _types(node, known))
        for rule in _RULES.get(node.op_type, ()):
            yield from (f"{where}: {reason}" for reason in rule(node, known))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph(attribute.g, known, functions)


def _named(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _operator(node: NodeProto, functions: set[tuple[str, str]]) -> Iterator[str]:
    if (node.domain, node.op_type) == (PLUGIN_DOMAIN, PLUGIN_NAME) or (node.domain, node.op_type) in functions:
        return
    if node.domain not in ("", "ai.onnx"):
        yield f"{_named(node)}: no plugin for operators of {node.domain}"
    elif _table().get(node.op_type) is None:
        yield f"{_named(node)}: TensorRT does not have this operator"


@functools.cache
def _table() -> dict[str, frozenset[str] | None]:
    """Types by operator; None for operators that TensorRT does not take."""
    lines = files("bev_deploy").joinpath("tensorrt_operators.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {name: None if types == "-" else frozenset(types.split()) for name, types in rows}


# -- rules: reasons why TensorRT refuses a node ------------------------------------------------------------------------


def _types(node: NodeProto, known: _Known) -> Iterator[str]:
    taken = _table().get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if taken is None:
        return
    place = _TYPED.get(node.op_type, 0)
    names = [node.output[0]] if place < 0 else list(node.input[place : place + 1])
    if node.op_type == "Cast":
        names.append(node.output[0])
    for name in names:
        kind = known.type(name)
        if kind is not None and kind != "float64" and kind not in taken:
            yield f"{name} is {kind}, taken are {', '.join(sorted(taken))}"


def _attribute(node: NodeProto, name: str, otherwise: Any = None) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return otherwise


def _given(node: NodeProto, place: int) -> str:
    """Name of an input, empty where it is left out."""
    return node.input[place] if len(node.input) > place else ""


def _no_reduction(node: NodeProto, known: _Known) -> Iterator[str]:
    reduction = _attribute(node, "reduction", "none")
    if reduction != "none":
        yield f"reduction {reduction} is not taken, only none"


def _flat_sampling(node: NodeProto, known: _Known) -> Iterator[str]:
    rank = known.rank(node.input[0])
    if rank not in (None, 4):
        yield f"samples maps of {rank} dimensions, taken are 4"


def _resize(node: NodeProto, known: _Known) -> Iterator[str]:
    if _attribute(node, "antialias", 0):
        yield "antialias is not taken"
    mode = _attribute(node, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        yield f"mode {mode} is not taken"
    place = _attribute(node, "coordinate_transformation_mode", "half_pixel")
    if place not in _RESIZE_PLACES:
        yield f"coordinate_transformation_mode {place} is not taken"
    if _attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        yield "only the aspect ratio policy stretch is taken"
    scales = known.value(_given(node, 2))
    changed = int((scales != 1).sum()) if scales is not None and scales.size else (known.rank(node.input[0]) or 2) - 2
    if mode == "linear" and changed > _MOST_LINEAR_AXES:
        yield f"interpolates along {changed} axes, taken are {_MOST_LINEAR_AXES}"


def _top_k(node: NodeProto, known: _Known) -> Iterator[str]:
    if not _attribute(node, "sorted", 1):
        yield "results must be sorted"
    count = known.value(_given(node, 1))
    if count is not None and int(count.reshape(-1)[0]) >= _MOST_CANDIDATES:
        yield f"K is {int(count.reshape(-1)[0])}, taken is less than {_MOST_CANDIDATES}"


def _zero_point(node: NodeProto, known: _Known) -> Iterator[str]:
    name = _given(node, 2)
    value = known.value(name)
    if name and value is None:
        yield "the zero point must be a constant"
    elif value is not None and np.any(value != 0):
        yield "the zero point must be 0"


def _deformable(node: NodeProto, known: _Known) -> Iterator[str]:
    pads = list(_attribute(node, "pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        yield f"pads {pads} differ between the two ends"
    if half > 2:
        yield f"has {half} spatial dimensions, taken are 2"


def _pooling(node: NodeProto, known: _Known) -> Iterator[str]:
    if len(_attribute(node, "kernel_shape", [1, 1])) not in (2, 3):
        yield "only 2 or 3 spatial dimensions are taken"
    if any(step != 1 for step in _attribute(node, "dilations", [])):
        yield "dilations are not taken"
    if len(node.output) > 1 and node.output[1]:
        yield "the output Indices is not taken"


def _one_output(node: NodeProto, known: _Known) -> Iterator[str]:
    if len(node.output) > 1 and any(node.output[1:]):
        yield "only the first output is taken"


def _constant_axes(node: NodeProto, known: _Known) -> Iterator[str]:
    name = _given(node, _CONSTANT_INPUTS[node.op_type])
    if name and name not in known.constants:
        yield f"{name} must be a constant"


_Rule = Callable[[NodeProto, _Known], Iterator[str]]
_RULES: dict[str, tuple[_Rule, ...]] = {
    "ScatterND": (_no_reduction,),
    "ScatterElements": (_no_reduction,),
    "GridSample": (_flat_sampling,),
    "Resize": (_resize,),
    "TopK": (_top_k,),
    "QuantizeLinear": (_zero_point,),
    "DequantizeLinear": (_zero_point,),
    "DeformConv": (_deformable,),
    "AveragePool": (_pooling,),
    "MaxPool": (_pooling,),
    "LayerNormalization": (_one_output,),
    **dict.fromkeys(_CONSTANT_INPUTS, (_constant_axes,)),
}
