"""int8 exports: what the graph looks like, what stays out of it, and how far the results are from float."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from torch import Tensor

from bev_deploy import (
    DeployedDetector,
    Manifest,
    ManifestError,
    QuantizationReport,
    QuantizeOptions,
    load,
    quantize_model,
)
from bev_deploy.compare import drive
from bev_deploy.manifest import sha256_of
from bev_deploy.quantization.layers import layers_of

quantize = import_module("bev_deploy.quantization.quantize")
Exports = Callable[..., Any]  # the fixture of conftest.py

SMALL = (64, 192)
SAMPLES = 8
PERCENTILE = QuantizeOptions(calibration="percentile", search_samples=1, threads=1)  # every layer is tried once
FAST = dataclasses.replace(PERCENTILE, max_error=None)  # none is
MOSTLY_KEPT = dataclasses.replace(FAST, keep=("backbone", "neck", "view_transform", "bev_encoder", "bev_neck"))
HEAD_ENDS = [f"head.task_heads.0.{name}.1" for name in ("heatmap", "offset", "height", "size", "yaw", "velocity")]


class Recorder:
    """A session that keeps what it was asked."""

    def __init__(self, detector: DeployedDetector) -> None:
        self.session = detector.session
        self.device, self.fixed_tables = self.session.device, self.session.fixed_tables
        self.asked: list[Mapping[str, Tensor]] = []
        detector.session = self

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.asked.append(inputs)
        return self.session(inputs)


def samples_of(case: Any, count: int = SAMPLES, seed: int = 0) -> list[Mapping[str, Tensor]]:
    """Inputs along a drive, with noise for images and the state that the model makes of it."""
    detector = load(case.folder)
    recorder = Recorder(detector)
    stream = detector.stream(scene_start="hold-first") if detector.recipe.temporal.history else None
    for images, rig in drive(case.model, count, seed=seed):
        detector.outputs(images, rig) if stream is None else stream.outputs(images, rig)
    return recorder.asked


def deviation(wanted: Tensor, got: Tensor) -> float:
    """Root mean square of the change in standard deviations."""
    return float((got - wanted).square().mean().sqrt() / wanted.std())


@pytest.fixture(scope="module")
def tiny(exported: Exports) -> Any:
    return exported("bevdet-tiny", SMALL, raw=True)


@pytest.fixture(scope="module")
def tiny_samples(tiny: Any) -> list[Mapping[str, Tensor]]:
    return samples_of(tiny)


@pytest.fixture(scope="module")
def quantized(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, QuantizationReport]:
    """bevdet-tiny in int8, with all that this includes."""
    folder = tmp_path_factory.mktemp("int8")
    return folder, quantize_model(tiny.folder, folder, tiny_samples, PERCENTILE)


# -- the graph ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(quantized: tuple[Path, QuantizationReport]) -> onnx.GraphProto:
    return onnx.load(quantized[0] / "model.onnx").graph


def convolutions(
    graph: onnx.GraphProto,
) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto | None, onnx.NodeProto | None]]:
    """Each with the DequantizeLinear before its input and before its weights, if there are."""
    made_by = {name: node for node in graph.node for name in node.output}

    def dequantized(name: str) -> onnx.NodeProto | None:
        node = made_by.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    for node in graph.node:
        if node.op_type == "Conv":
            yield node, dequantized(node.input[0]), dequantized(node.input[1])


def constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_every_convolution_is_in_int8_or_reported(
    quantized: tuple[Path, QuantizationReport], graph: onnx.GraphProto
) -> None:
    report = quantized[1]
    found = list(convolutions(graph))
    assert all((activation is None) == (weight is None) for _, activation, weight in found)
    in_float = [node for node, _, weight in found if weight is None]
    names = {node.input[1].removeprefix("detector.").removesuffix(".weight") for node in in_float}
    assert names == {entry.name for entry in (*report.sensitive, *report.left_out)}
    assert len(found) - len(in_float) == sum(layer.int8 for layer in report.layers) > len(found) / 2


def test_the_last_layers_of_the_head_stay_as_they_are(quantized: tuple[Path, QuantizationReport]) -> None:
    assert [entry.name for entry in quantized[1].left_out] == HEAD_ENDS


def test_weights_have_a_scale_per_output_channel(graph: onnx.GraphProto, tiny: Any) -> None:
    values = constants(graph)
    before = constants(onnx.load(tiny.folder / "model.onnx").graph)
    for node, _, dequantize in convolutions(graph):
        if dequantize is None:
            continue
        levels, scale, zero = (values[name] for name in dequantize.input)
        axis = next(attribute.i for attribute in dequantize.attribute if attribute.name == "axis")
        original = before[dequantize.input[0].removesuffix("_levels")]
        assert levels.dtype == zero.dtype == np.int8 and axis == 0
        assert scale.shape == zero.shape == levels.shape[:1] and not zero.any()
        largest = np.abs(levels.astype(int)).max(axis=(1, 2, 3))
        assert (largest == np.where(original.any(axis=(1, 2, 3)), 127, 0)).all()
        restored = levels * scale.reshape(-1, *[1] * (levels.ndim - 1))
        assert (np.abs(restored - original) <= 0.501 * scale.reshape(-1, *[1] * (levels.ndim - 1))).all()
        for bias in node.input[2:]:
            np.testing.assert_array_equal(values[bias], before[bias])


def test_activations_have_one_scale_and_zero_in_the_middle(graph: onnx.GraphProto) -> None:
    values = constants(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    for _, dequantize, _ in convolutions(graph):
        if dequantize is None:
            continue
        quantize = made_by[dequantize.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        scale, zero = (values[name] for name in quantize.input[1:])
        assert scale.shape == zero.shape == () and scale > 0
        assert zero == 0 and zero.dtype == np.int8


def test_nothing_but_convolutions_reads_from_int8(graph: onnx.GraphProto) -> None:
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    readers = {node.op_type for node in graph.node if dequantized & set(node.input)}
    assert readers == {"Conv"}


def test_a_tensor_is_quantised_once(graph: onnx.GraphProto) -> None:
    read = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(read) == len(set(read))


def test_inputs_outputs_and_state_stay(quantized: tuple[Path, QuantizationReport], tiny: Any) -> None:
    before, after = Manifest.read(tiny.folder), Manifest.read(quantized[0])
    assert after.quantized and not before.quantized
    changed = {"quantized": False, "files": before.files, "versions": before.versions}
    assert dataclasses.replace(after, **changed) == before
    assert (quantized[0] / "model.onnx").stat().st_size < 0.6 * (tiny.folder / "model.onnx").stat().st_size


# -- the results -------------------------------------------------------------------------------------------------------


def test_results_stay_within_the_bound(quantized: tuple[Path, QuantizationReport], tiny: Any) -> None:
    folder, report = quantized
    assert set(report.results) == set(HEAD_ENDS)
    assert 0 < max(report.results.values()) <= 0.1
    before, after = load(tiny.folder), load(folder)
    for images, rig in drive(tiny.model, 2, seed=7):  # never seen
        wanted, got = before.outputs(images, rig), after.outputs(images, rig)
        assert max(deviation(wanted[name], got[name]) for name in wanted) < 0.15


@pytest.mark.parametrize("calibration", ["trial", "percentile", "entropy", "minmax"])
def test_every_calibration_gives_a_model(
    calibration: str, tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path
) -> None:
    few = ("backbone", "bev_encoder", "bev_neck", "head")
    keep = few if calibration == "trial" else ()  # every layer is tried four times
    options = dataclasses.replace(FAST, calibration=calibration, keep=keep)
    report = quantize_model(tiny.folder, tmp_path, tiny_samples, options)
    assert all(layer.int8 and layer.reach > 0 for layer in report.layers)
    assert all(math.isfinite(error) for error in report.results.values())


def test_wider_calibrations_reach_further(tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path) -> None:
    def reaches(**options: Any) -> np.ndarray:
        chosen = dataclasses.replace(FAST, **options)
        return np.array([layer.reach for layer in quantize_model(tiny.folder, tmp_path, tiny_samples, chosen).layers])

    narrow, wide = reaches(percentile=99.0), reaches(calibration="minmax")
    assert (narrow < wide).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bevdet-tiny-4d", {"raw": True}),  # state
        ("bevdet-tiny-stereo", {"raw": True}),  # matching and camera parameters
        # convolutions in three dimensions, joined ones
        pytest.param("bevdet-tiny-occ", {"raw": True}, marks=pytest.mark.slow),
        ("bevdet-tiny", {"raw": True, "pool": "plugin"}),
        ("bevdet-tiny", {"raw": True, "precision": "fp16", "opset": 19}),
        ("bevdet-tiny", {}),  # results inside of the graph
    ],
)
def test_every_kind_of_export(exported: Exports, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    case = exported(name, SMALL, **options)
    samples = samples_of(case)
    report = quantize_model(case.folder, tmp_path, samples, FAST)
    assert 0 < max(report.results.values()) < 0.5
    detector = load(tmp_path)
    outputs, wanted = detector.session(samples[-1]), load(case.folder).session(samples[-1])
    assert {key: (value.shape, value.dtype) for key, value in outputs.items()} == {
        key: (value.shape, value.dtype) for key, value in wanted.items()
    }
    assert all(value.isfinite().all() for value in outputs.values())
    assert len(detector.decoded(outputs)) == 1


def test_camera_parameters_are_never_quantised(exported: Exports, tmp_path: Path) -> None:
    case = exported("bevdet-tiny-stereo", SMALL, raw=True)
    report = quantize_model(case.folder, tmp_path, samples_of(case), FAST)
    pixels = {entry.name for entry in report.left_out if "per channel" in entry.reason}
    depth_net = "view_transform.depth_net"
    assert pixels == {
        f"{depth_net}.{name}"
        for name in (
            *(f"{se}_se.{part}" for se in ("context", "depth") for part in ("reduce", "expand")),
            "aspp.pooled.0",
        )
    }
    assert {layer.operator for layer in report.layers} == {"Conv"}


def test_state_goes_on_in_int8(exported: Exports, tmp_path: Path) -> None:
    case = exported("bevdet-tiny-4d", SMALL, raw=True)
    quantize_model(case.folder, tmp_path, samples_of(case), PERCENTILE)
    before, after = load(case.folder).stream(), load(tmp_path).stream()
    for images, rig in drive(case.model, 5, seed=3):
        wanted, got = before.outputs(images, rig), after.outputs(images, rig)
    assert max(deviation(wanted[name], got[name]) for name in wanted) < 0.2


# -- sensitive layers --------------------------------------------------------------------------------------------------


def with_a_loud_channel(folder: Path, out: Path, layer: str, before: str) -> Path:
    """The same function, but one channel into a layer is a thousand times as large, and its weights as much smaller."""
    shutil.copytree(folder, out)
    model = onnx.load(out / "model.onnx")
    values = {name: array.copy() for name, array in constants(model.graph).items()}
    channel = values[f"detector.{before}.bias"].argmax()  # one that ReLU lets through
    values[f"detector.{before}.weight"][channel] *= 1e3
    values[f"detector.{before}.bias"][channel] *= 1e3
    values[f"detector.{layer}.weight"][:, channel] /= 1e3
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    onnx.save(model, out / "model.onnx")
    manifest = Manifest.read(out, verify=False)
    dataclasses.replace(manifest, files={"model.onnx": sha256_of(out / "model.onnx")}).write(out)
    return out


def test_a_sensitive_layer_is_found_and_left_out(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path
) -> None:
    layer = "bev_neck.output.4"
    loud = with_a_loud_channel(tiny.folder, tmp_path / "loud", layer, before="bev_neck.output.1")
    options = dataclasses.replace(PERCENTILE, max_error=0.3, calibration="minmax")
    report = quantize_model(loud, tmp_path / "int8", tiny_samples, options)
    assert [entry.name for entry in report.sensitive] == [layer]
    assert report.sensitive[0].error > 0.3
    assert max(report.results.values()) <= 0.3


@pytest.mark.slow
def test_a_tighter_bound_leaves_out_more(tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path) -> None:
    counts = []
    for bound in (0.3, 0.02, 1e-6):
        options = dataclasses.replace(PERCENTILE, max_error=bound)
        report = quantize_model(tiny.folder, tmp_path, tiny_samples, options)
        assert max(report.results.values()) <= bound
        counts.append(len(report.sensitive))
    harmful = sum(layer.error > 0 for layer in report.layers)  # drawn weights have layers of zeros
    assert counts[0] < counts[1] < counts[2] == harmful


def test_modules_are_kept_when_asked(tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path) -> None:
    options = dataclasses.replace(FAST, keep=("backbone", "head.shared_conv.conv"))
    report = quantize_model(tiny.folder, tmp_path, tiny_samples, options)
    kept = {entry.name for entry in report.left_out if entry.reason == "asked for"}
    assert "head.shared_conv.conv" in kept and "backbone.body.stem.conv" in kept
    assert not any(layer.name.startswith("backbone.") for layer in report.layers)


def test_linear_layers_of_the_backbone_on_request() -> None:
    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ones(shape, dtype=np.float32), name)

    def node(operator: str, weight: str, into: str, out: str, **attributes: int) -> onnx.NodeProto:
        return onnx.helper.make_node(operator, [into, weight], [out], **attributes)

    graph = onnx.helper.make_graph(
        [
            node("MatMul", "detector.backbone.fc.weight", "x", "a"),
            node("Gemm", "detector.backbone.gemm.weight", "a", "b", transB=1),
            node("MatMul", "detector.head.fc.weight", "b", "c"),
            node("Conv", "detector.head.end.weight", "c", "d"),
        ],
        "graph",
        [],
        [],
        [
            constant("detector.backbone.fc.weight", 4, 6),
            constant("detector.backbone.gemm.weight", 5, 6),
            constant("detector.head.fc.weight", 5, 5),
            constant("detector.head.end.weight", 3, 5, 1),
        ],
    )
    assert layers_of(graph, matmul=False)[0] == []
    found, left_out = layers_of(graph, matmul=True)
    assert [(layer.name, layer.operator, layer.axis) for layer in found] == [
        ("backbone.fc", "MatMul", 1),
        ("backbone.gemm", "Gemm", 0),
    ]
    assert [entry.name for entry in left_out] == ["head.end"]


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_lies_beside_the_model(quantized: tuple[Path, QuantizationReport], tiny: Any) -> None:
    folder, report = quantized
    content = json.loads((folder / "quantization.json").read_text())
    assert content["results"] == report.results
    assert content["bytes_before"] == (tiny.folder / "model.onnx").stat().st_size
    assert content["bytes_after"] == (folder / "model.onnx").stat().st_size
    assert content["samples"] == SAMPLES and content["accuracy"] is None
    assert [layer["name"] for layer in content["layers"]] == [layer.name for layer in report.layers]
    page = (folder / "quantization.md").read_text()
    assert all(f"| {entry.name} |" in page for entry in (*report.layers, *report.left_out))


def test_an_evaluation_that_fails_leaves_the_model_with_its_report(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(quantize, "_accuracy", fail)
    monkeypatch.setattr(quantize, "check_dataset", lambda *_: None)
    monkeypatch.setattr(quantize, "check_answers", lambda *_: None)
    with pytest.raises(OSError, match="no space left"):
        quantize_model(tiny.folder, tmp_path, tiny_samples, MOSTLY_KEPT, evaluation=object())
    assert Manifest.read(tmp_path).quantized
    assert json.loads((tmp_path / "quantization.json").read_text())["accuracy"] is None


def test_other_distributions_of_onnx_runtime(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)  # installed as onnxruntime-gpu
        return "1.0"

    monkeypatch.setattr(quantize, "version", version)
    quantize_model(tiny.folder, tmp_path, tiny_samples, MOSTLY_KEPT)
    assert Manifest.read(tmp_path).versions["onnxruntime"] == onnxruntime.__version__


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_wrong_folders_are_refused(
    quantized: tuple[Path, QuantizationReport], tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=r"holds no manifest\.json"):
        quantize_model(tmp_path, tmp_path / "out", tiny_samples)
    with pytest.raises(ValueError, match="is quantised already"):
        quantize_model(quantized[0], tmp_path / "out", tiny_samples)
    with pytest.raises(ValueError, match="to another folder"):
        quantize_model(tiny.folder, tiny.folder, tiny_samples)


def test_samples_that_do_not_fit_are_refused(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path
) -> None:
    first = tiny_samples[0]
    without = {name: tensor for name, tensor in first.items() if name != "images"}
    wrong: dict[str, list[Mapping[str, Tensor]]] = {
        "at least 8 samples, got 3: give more": tiny_samples[:3],
        r"sample 0 does not fit the export: missing \['images'\]": [without],
        r"sample 0: images must be \(1, 6, 3, 64, 192\) float32, got \(6, 3, 64, 192\)": [
            {**first, "images": first["images"][0]}
        ],
        "got .* float16": [{**first, "images": first["images"].half()}],
        "is infinite or not a number": [{**first, "images": first["images"] * math.inf}],
    }
    for message, samples in wrong.items():
        with pytest.raises(ValueError, match=message):
            quantize_model(tiny.folder, tmp_path / "out", samples, FAST)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_modules_that_do_not_exist_are_refused(
    tiny: Any, tiny_samples: list[Mapping[str, Tensor]], tmp_path: Path
) -> None:
    for keep, message in [
        (("backbon",), "no layer that could be quantised is in 'backbon'; there are backbone, bev_encoder"),
        (("backbone", "neck", "view_transform", "bev_encoder", "bev_neck", "head"), "no layer is left to quantise"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize_model(tiny.folder, tmp_path, tiny_samples, dataclasses.replace(FAST, keep=keep))


@pytest.mark.parametrize(
    "options",
    [{"calibration": "best"}, {"percentile": 40}, {"percentile": 101}, {"max_error": 0.0}, {"search_samples": 0}],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        QuantizeOptions(**options)


def test_half_precision_needs_a_newer_opset(exported: Exports, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(exported("bevdet-tiny", SMALL, raw=True).folder, folder)
    dataclasses.replace(Manifest.read(folder), precision="fp16").write(folder)
    with pytest.raises(ValueError, match="export it again with --opset 19"):
        quantize_model(folder, tmp_path / "out", [])
