"""Exports with pooling as one node: what is in the file, and that other runtimes get the same results from it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from bev_deploy.plugin_node import PLUGIN_INPUTS, add_plugin_body, without_plugin_body
from bev_deploy.tables import pool_tables
from bev_ops import BevGrid, PoolPlan
from bev_zoo import nuscenes_rig

Exports = Callable[..., Any]  # the fixture of conftest.py
SMALL = (64, 192)
GRID = BevGrid(x=(-4.0, 4.0, 2.0), y=(-4.0, 4.0, 1.0), z=(-4.0, 4.0, 4.0))


def node_in(model: onnx.ModelProto) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.op_type == "bev_pool")
    return node


@pytest.mark.parametrize("name", ["bevdet-tiny", "bevdet-tiny-occ"])
def test_predictions_are_those_of_native_pooling(exported: Exports, name: str) -> None:
    native, plugin = (exported(name, SMALL, pool=pool) for pool in ("native", "plugin"))
    recipe = native.model.recipe
    images = torch.randn(1, recipe.frames, 6, 3, *SMALL, generator=torch.Generator().manual_seed(0))
    rig = nuscenes_rig(SMALL, frames=recipe.frames, rolling=True)
    for want, got in zip(native.load().predict(images, rig), plugin.load().predict(images, rig), strict=True):
        if recipe.task == "occupancy":
            assert (got == want).float().mean() > 0.999
        else:
            assert len(want) and len(got) == len(want)
            assert torch.allclose(got.boxes, want.boxes, atol=1e-3)


def test_the_file_holds_a_node_and_its_body(exported: Exports) -> None:
    folder = exported("bevdet-tiny", SMALL, pool="plugin").folder
    model = onnx.load(folder / "model.onnx")
    node = node_in(model)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert node.domain == "bev" and len(node.input) == len(PLUGIN_INPUTS)
    assert attributes == {
        "cells_x": 64,
        "cells_y": 64,
        "cells_z": 1,
        "plugin_namespace": b"bev",
        "plugin_version": b"1",
    }
    assert [(body.domain, body.name) for body in model.functions] == [("bev", "bev_pool")]
    assert all(other == node for other in model.graph.node if any(name.startswith("pool_") for name in other.input))
    stripped = without_plugin_body(model)
    assert not stripped.functions and model.functions and node_in(stripped) == node


def test_the_file_passes_the_checker_without_this_package(exported: Exports) -> None:
    path = exported("bevdet-tiny", SMALL, pool="plugin").folder / "model.onnx"
    code = f"import onnx; onnx.checker.check_model({str(path)!r}, full_check=True)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("opset", [18, 20, 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_body_is_the_operator(tmp_path: Path, opset: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    points = 5 * (torch.rand(2, 2, 5, 6, 4, 3, generator=generator) - 0.5)
    tables = pool_tables(PoolPlan.from_points(points, GRID))
    depth = torch.rand(2, 2, 5, 6, 4, generator=generator).to(dtype)
    columns = torch.randn(2, 2, 4, 6, 7, generator=generator).to(dtype)
    kind = helper.np_dtype_to_tensor_dtype(depth.numpy().dtype)
    kinds = [kind, kind, *[TensorProto.INT32] * len(tables)]
    tensors = (depth, columns, *tables)
    inputs = [
        helper.make_tensor_value_info(name, kind, tensor.shape)
        for name, kind, tensor in zip(PLUGIN_INPUTS, kinds, tensors, strict=True)
    ]
    x, y, z = GRID.size
    node = helper.make_node(
        "bev_pool", PLUGIN_INPUTS, ["cells"], domain="bev", cells_x=x, cells_y=y, cells_z=z, plugin_namespace="bev"
    )
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("cells", kind, [None] * 5)])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("bev", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    add_plugin_body(path)
    given = {name: tensor.numpy() for name, tensor in zip(PLUGIN_INPUTS, tensors, strict=True)}
    (got,) = onnxruntime.InferenceSession(path).run(None, given)
    want = torch.ops.bev_deploy.bev_pool.default(depth.float(), columns.float(), *tables, *GRID.size)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    assert torch.allclose(torch.from_numpy(got).float(), want, atol=tolerance)
