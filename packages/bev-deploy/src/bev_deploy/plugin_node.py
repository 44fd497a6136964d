"""Pooling as one ONNX node ``bev::bev_pool``, and what other runtimes than TensorRT run in its place.

TensorRT finds its plugin by the node's operator type and the attributes ``plugin_namespace`` and ``plugin_version``.
The same file carries a function of the node's name, in standard operators: ONNX Runtime runs that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import torch
from onnx import FunctionProto, ModelProto, defs
from onnxscript.values import Opset

from .tables import PoolTables

__all__ = [
    "PLUGIN_ATTRIBUTES",
    "PLUGIN_DOMAIN",
    "PLUGIN_INPUTS",
    "PLUGIN_NAME",
    "PLUGIN_TRANSLATIONS",
    "add_plugin_body",
    "without_plugin_body",
]

PLUGIN_DOMAIN, PLUGIN_NAME, PLUGIN_VERSION = "bev", "bev_pool", "1"
PLUGIN_INPUTS = ("depth", "columns", *PoolTables._fields)
PLUGIN_ATTRIBUTES = ("cells_x", "cells_y", "cells_z")
_LABELS = {"plugin_namespace": PLUGIN_DOMAIN, "plugin_version": PLUGIN_VERSION}


def add_plugin_body(path: Path) -> None:
    """Give an ONNX file the function that stands for its plugin node."""
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    model.functions.append(_body(opset))
    onnx.save(model, path)


def without_plugin_body(model: ModelProto) -> ModelProto:
    """A copy that holds the node alone: a parser that prefers functions to plugins would not look for the plugin."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    copy.functions.extend(body for body in model.functions if (body.domain, body.name) != (PLUGIN_DOMAIN, PLUGIN_NAME))
    return copy


def _translation() -> Callable[..., Any]:
    """What ``bev_deploy::bev_pool`` becomes."""
    if not defs.has(PLUGIN_NAME, PLUGIN_DOMAIN):
        defs.register_schema(_schema())
    domain = Opset(PLUGIN_DOMAIN, int(PLUGIN_VERSION))

    def bev_pool(*inputs_and_size: Any) -> Any:
        tensors, size = inputs_and_size[: len(PLUGIN_INPUTS)], inputs_and_size[len(PLUGIN_INPUTS) :]
        return domain.bev_pool(*tensors, **dict(zip(PLUGIN_ATTRIBUTES, size, strict=True)), **_LABELS)

    return bev_pool


def _schema() -> defs.OpSchema:
    types = ["tensor(float)", "tensor(float16)"]
    inputs = [
        defs.OpSchema.FormalParameter(name, "T" if name in PLUGIN_INPUTS[:2] else "tensor(int32)")
        for name in PLUGIN_INPUTS
    ]
    integers = [defs.OpSchema.Attribute(name, defs.OpSchema.AttrType.INT) for name in PLUGIN_ATTRIBUTES]
    labels = [defs.OpSchema.Attribute(name, defs.OpSchema.AttrType.STRING, required=False) for name in _LABELS]
    return defs.OpSchema(
        PLUGIN_NAME,
        PLUGIN_DOMAIN,
        int(PLUGIN_VERSION),
        inputs=inputs,
        outputs=[defs.OpSchema.FormalParameter("cells", "T")],
        type_constraints=[("T", types, "of weights, features and sums")],
        attributes=[*integers, *labels],
    )


def _body(opset: int) -> FunctionProto:
    """:mod:`bev_deploy.pooling` in operators, for any sizes."""
    attributes = ", ".join((*PLUGIN_ATTRIBUTES, *_LABELS))
    return onnx.parser.parse_function(f"""
        <domain: "{PLUGIN_DOMAIN}", opset_import: ["" : {opset}]>
        {PLUGIN_NAME} <{attributes}> ({", ".join(PLUGIN_INPUTS)}) => (cells) {{
            nothing = Constant <value_ints: ints = [0]> ()
            one = Constant <value_ints: ints = [1]> ()
            any = Constant <value_ints: ints = [-1]> ()
            channels = Shape <start: int = 4> (columns)
            row_shape = Concat <axis: int = 0> (any, channels)
            plain_zero = Constant <value_float: float = 0.0> ()
            zero = CastLike (plain_zero, depth)
            zero_row_shape = Concat <axis: int = 0> (one, channels)
            zero_row = Expand (zero, zero_row_shape)

            first_row = Constant <value_int: int = 0> ()
            row_step = Constant <value_int: int = 1> ()
            row_counts = Shape <start: int = 3, end: int = 4> (columns)
            row_count = Squeeze (row_counts)
            row_numbers = Range (first_row, row_count, row_step)
            row = Cast <to: int = {onnx.TensorProto.INT32}> (row_numbers)
            begun = GreaterOrEqual (row, run_first)
            not_over = Less (row, run_end)
            in_run = And (begun, not_over)
            depth_by_column = Transpose <perm: ints = [0, 1, 4, 2, 3]> (depth)
            weight = Where (in_run, depth_by_column, zero)
            column_sums = MatMul (weight, columns)
            runs = Reshape (column_sums, row_shape)

            pixels = Reshape (columns, row_shape)
            pixel = Gather <axis: int = 0> (pixels, point_pixel)
            depths = Reshape (depth, any)
            point_weight = Gather <axis: int = 0> (depths, point_depth)
            point_weights = Unsqueeze (point_weight, one)
            points = Mul (pixel, point_weights)
            entries = Concat <axis: int = 0> (zero_row, runs, points)

            {_level("first", "entries", "sums_1")}
            {_level("second", "first", "sums_2")}
            {_level("third", "second", "sums_3")}
            rows = Concat <axis: int = 0> (entries, first, second, third)
            cell_rows = Gather <axis: int = 0> (rows, cell_row)
            x = Constant <value_int: int = @cells_x> ()
            y = Constant <value_int: int = @cells_y> ()
            z = Constant <value_int: int = @cells_z> ()
            xs = Unsqueeze (x, nothing)
            ys = Unsqueeze (y, nothing)
            zs = Unsqueeze (z, nothing)
            shape = Concat <axis: int = 0> (any, zs, ys, xs, channels)
            cells = Reshape (cell_rows, shape)
        }}
    """)


def _level(result: str, source: str, table: str) -> str:
    """Sums of rows of ``source``, which of them in ``table``."""
    return f"""
            {result}_rows = Gather <axis: int = 0> ({source}, {table})
            {result} = ReduceSum <keepdims: int = 0> ({result}_rows, one)
    """


PLUGIN_TRANSLATIONS = {torch.ops.bev_deploy.bev_pool.default: _translation()}
