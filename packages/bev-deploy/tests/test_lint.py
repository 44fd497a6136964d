"""What TensorRT takes: rules on small graphs, and the exports themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bev_deploy import lint_for_tensorrt

TINY = (
    *("bevdet-tiny", "bevdet-tiny-4d", "bevdet-tiny-4dlongterm"),
    *("bevdet-tiny-depth", "bevdet-tiny-stereo", "bevdet-tiny-occ"),
)
SMALL = (64, 192)
FLOAT, DOUBLE, INT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


def linted(folder: Path, text: str, constants: dict[str, np.ndarray] | None = None, opset: int = 18) -> list[str]:
    """Lint a graph in ONNX's text format."""
    imports = f'["" : {opset}, "other" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {imports}> {text}")
    for name, value in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return lint_for_tensorrt(path)


MAP, PLACES, FIVE = "float[1,3,8,8] x", "float[1,4,4,2] places", "float[1,3,8,8,8] x"
ONES = np.ones(1, np.float32)
# What a graph is called, the graph, its constants, and what the lint says of it; None for nothing.
GRAPHS: dict[str, tuple[str, dict[str, np.ndarray], str | None]] = {
    "plain": (f"g ({MAP}) => (float[1,3,8,8] y) {{ y = Relu (x) }}", {}, None),
    "operator that is not there": (
        f"g ({MAP}) => (float[N] y) {{ y = Unique (x) }}",
        {},
        "does not have this operator",
    ),
    "operator of no plugin": (f"g ({MAP}) => (float[1,3,8,8] y) {{ y = other.Thing (x) }}", {}, "no plugin"),
    "type that is not taken": (
        "g (int32[4,4] a, int32[4,4] b) => (int32[4,4] y) { y = MatMul (a, b) }",
        {},
        "a is int32, taken are bfloat16, float16, float32",
    ),
    "integers that are taken": ("g (int64[4] a, int64[4] b) => (int64[4] y) { y = Add (a, b) }", {}, None),
    "float64": ("g (double[4] a) => (double[4] y) { y = Relu (a) }", {}, "float64 is read as float32: a, y"),
    "Where is about its values": (
        "g (bool[4] a, float[4] b, float[4] c) => (float[4] y) { y = Where (a, b, c) }",
        {},
        None,
    ),
    "ScatterND that adds": (
        'g (float[4] x, int64[2,1] i, float[2] u) => (float[4] y) { y = ScatterND <reduction = "add"> (x, i, u) }',
        {},
        "reduction add is not taken",
    ),
    "ScatterElements that adds": (
        'g (float[4] x, int64[2] i, float[2] u) => (float[4] y) { y = ScatterElements <reduction = "add"> (x, i, u) }',
        {},
        "reduction add is not taken",
    ),
    "ScatterND": (
        'g (float[4] x, int64[2,1] i, float[2] u) => (float[4] y) { y = ScatterND <reduction = "none"> (x, i, u) }',
        {},
        None,
    ),
    "flat sampling": (f"g ({MAP}, {PLACES}) => (float[1,3,4,4] y) {{ y = GridSample (x, places) }}", {}, None),
    "sampling in space": (
        f"g ({FIVE}, float[1,4,4,4,3] places) => (float[1,3,4,4,4] y) {{ y = GridSample (x, places) }}",
        {},
        "maps of 5 dimensions",
    ),
    "Resize with antialias": (
        f'g ({MAP}) => (float[1,3,16,16] y) {{ y = Resize <mode = "linear", antialias = 1> (x, , scales) }}',
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        "antialias",
    ),
    "Resize by cubes": (
        f'g ({MAP}) => (float[1,3,16,16] y) {{ y = Resize <mode = "cubic"> (x, , scales) }}',
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        "mode cubic",
    ),
    "Resize along three axes": (
        f'g ({FIVE}) => (float[1,3,16,16,16] y) {{ y = Resize <mode = "linear"> (x, , scales) }}',
        {"scales": np.array([1, 1, 2, 2, 2], np.float32)},
        None,
    ),
    "Resize along four axes": (
        f'g ({FIVE}) => (float[1,6,16,16,16] y) {{ y = Resize <mode = "linear"> (x, , scales) }}',
        {"scales": np.array([1, 2, 2, 2, 2], np.float32)},
        "along 4 axes",
    ),
    "TopK of many": (
        "g (float[9000] x) => (float[5000] y, int64[5000] i) { y, i = TopK (x, k) }",
        {"k": np.array([3840])},
        "K is 3840",
    ),
    "TopK": (
        "g (float[9000] x) => (float[500] y, int64[500] i) { y, i = TopK (x, k) }",
        {"k": np.array([500])},
        None,
    ),
    "TopK in no order": (
        "g (float[9000] x) => (float[500] y, int64[500] i) { y, i = TopK <sorted = 0> (x, k) }",
        {"k": np.array([500])},
        "sorted",
    ),
    "symmetric quantisation": (
        "g (float[4] x) => (int8[4] y) { y = QuantizeLinear (x, scale, zero) }",
        {"scale": ONES[0], "zero": np.int8(0)},
        None,
    ),
    "shifted quantisation": (
        "g (float[4] x) => (int8[4] y) { y = QuantizeLinear (x, scale, zero) }",
        {"scale": ONES[0], "zero": np.int8(3)},
        "zero point must be 0",
    ),
    "axes that are computed": (
        "g (float[4,4] x, int64[1] axes) => (float[N] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
        {},
        "axes must be a constant",
    ),
    "pooling with indices": (
        f"g ({MAP}) => (float[1,3,7,7] y, int64[1,3,7,7] i) {{ y, i = MaxPool <kernel_shape = [2, 2]> (x) }}",
        {},
        "Indices",
    ),
    "dilated pooling": (
        f"g ({MAP}) => (float[1,3,6,6] y) {{ y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x) }}",
        {},
        "dilations",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_rules(tmp_path: Path, name: str) -> None:
    text, constants, wanted = GRAPHS[name]
    found = linted(tmp_path, text, constants)
    if wanted is None:
        assert found == []
    else:
        assert len(found) == 1 and wanted in found[0]


def test_graphs_within_graphs_are_read(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Unique", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", FLOAT, [None])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    values = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", FLOAT, [4])]
    graph = helper.make_graph([node], "outer", values, [helper.make_tensor_value_info("y", FLOAT, [None])])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    assert len(lint_for_tensorrt(path)) == 2


def test_functions_are_read(tmp_path: Path) -> None:
    function = onnx.parser.parse_function(
        '<domain: "other", opset_import: ["" : 18]> Thing (x) => (y) { y = Unique (x) }'
    )
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "other" : 1]> g (float[4] x) => (float[N] y) { y = other.Thing (x) }'
    )
    model.functions.append(function)
    onnx.save(model, tmp_path / "model.onnx")
    assert lint_for_tensorrt(tmp_path / "model.onnx") == ["Unique y: TensorRT does not have this operator"]


def test_an_opset_that_is_too_new(tmp_path: Path) -> None:
    assert "opset 25 is newer than 24" in linted(tmp_path, GRAPHS["plain"][0], opset=25)[0]


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as an ONNX model"):
        lint_for_tensorrt(path)


@pytest.mark.parametrize("name", TINY)
def test_exports_of_every_family(exported: Callable[..., Any], name: str) -> None:
    assert lint_for_tensorrt(exported(name, SMALL, raw=True).folder / "model.onnx") == []


@pytest.mark.parametrize(
    "options", [{}, {"pool": "plugin"}, {"precision": "fp16"}, {"preprocess": True, "raw": True}], ids=str
)
def test_exports_with_every_option(exported: Callable[..., Any], options: dict[str, Any]) -> None:
    assert lint_for_tensorrt(exported("bevdet-tiny", SMALL, **options).folder / "model.onnx") == []
