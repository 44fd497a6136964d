"""What stands beside an export, and exports that are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from bev_deploy import Manifest, ManifestError, load
from bev_deploy.commands.inspect import problems_of

Exports = Callable[..., Any]  # the fixture of conftest.py


@pytest.fixture
def folder(exported: Exports, tmp_path: Path) -> Path:
    return shutil.copytree(exported("bevdet-tiny-4d", raw=True).folder, tmp_path / "copy")


def test_the_manifest_says_what_the_graph_has(folder: Path) -> None:
    manifest = Manifest.read(folder)
    graph = onnx.load(folder / manifest.model).graph
    for specs, values in ((manifest.inputs, graph.input), (manifest.outputs, graph.output)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        for spec, value in zip(specs, values, strict=True):
            sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
            assert len(sizes) == len(spec.shape), spec
            assert all(isinstance(a, str) or a == b for a, b in zip(spec.shape, sizes, strict=True)), spec
            wanted = getattr(
                onnx.TensorProto, {"float32": "FLOAT", "float16": "FLOAT16"}.get(spec.dtype, spec.dtype.upper())
            )
            assert value.type.tensor_type.elem_type == wanted, spec
    assert manifest.opset == next(i.version for i in onnx.load(folder / manifest.model).opset_import if not i.domain)


def test_what_is_written_is_read(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(folder)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path, verify=False) == manifest
    assert manifest.recipe_at_size().input_size == manifest.input_size
    assert manifest.state == {"next_history": "history"}


def broken_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def another_format(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format": "bevkit-deploy-0"}))


def entry_missing(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    del content["grid"]
    (folder / "manifest.json").write_text(json.dumps(content))


def changed_model(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (broken_json, "cannot be read"),
        (another_format, "not of format bevkit-deploy-1"),
        (entry_missing, "is broken"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (changed_model, "checksum differs"),
    ],
)
def test_an_export_that_is_not_whole_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ManifestError, match=message):
        load(folder)


def test_shapes_that_contradict_each_other_are_told(folder: Path) -> None:
    manifest = Manifest.read(folder)
    model = onnx.load(folder / manifest.model)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    onnx.save(model, folder / manifest.model)
    (problem,) = problems_of(folder, manifest)
    assert problem.startswith("not a valid ONNX file: ") and "differ in dimension 1" in problem


def test_an_unknown_backend_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match='"onnxruntime" or "tensorrt", got \'openvino\''):
        load(folder, "openvino")
