"""Exports against the models they were made from: whole sequences, streams, every option."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from bev_deploy import DeployedDetector, ExportOptions, export_model
from bev_deploy.compare import agreement, agreement_of_streams, drive
from bev_deploy.step import Step
from bev_zoo import CameraRig, StreamOrderError, create_model, list_recipes, nuscenes_rig

Exports = Callable[..., Any]  # the fixture of conftest.py

RAW_ERROR = 1e-3  # of the standard deviation of each raw output
SMALL = (64, 192)
TEMPORAL = ("bevdet-tiny-4d", "bevdet-tiny-4dlongterm", "bevdet-tiny-stereo")
FAST = ("bevdet-tiny", *TEMPORAL, "bevdet-tiny-depth", "bevdet-tiny-occ")
REDUCED = (128, 352)


def sequence(exported: Any, samples: int = 1) -> tuple[torch.Tensor, CameraRig]:
    recipe = exported.model.recipe
    images = torch.cat([frame for frame, _ in drive(exported.model, recipe.frames)], dim=1)
    rig = nuscenes_rig(recipe.input_size, frames=recipe.frames, samples=samples, now=recipe.frames, rolling=True)
    return images.expand(samples, -1, -1, -1, -1, -1).contiguous(), rig


@pytest.mark.parametrize("name", FAST)
def test_a_whole_sequence(exported: Exports, name: str) -> None:
    case = exported(name, SMALL, raw=True)
    found = agreement(case.model, case.load(), *sequence(case))
    assert found.raw < RAW_ERROR
    assert found.boxes is None or found.boxes > 0.999
    assert found.voxels is None or found.voxels > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_recipes() if name not in FAST])
def test_a_whole_sequence_of_a_published_system(exported: Exports, name: str) -> None:
    case = exported(name, REDUCED, raw=True)
    found = agreement(case.model, case.load(), *sequence(case))
    assert found.raw < RAW_ERROR
    assert found.boxes is None or found.boxes > 0.999
    assert found.voxels is None or found.voxels > 0.999


@pytest.mark.parametrize("frames", [10, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TEMPORAL)
def test_a_drive(exported: Exports, name: str, frames: int) -> None:
    case = exported(name, SMALL, raw=True)
    assert agreement_of_streams(case.model, case.load(), frames).raw < RAW_ERROR


@pytest.mark.parametrize("name", ["bevdet-tiny", "bevdet-tiny-4d"])
def test_decoded_boxes(exported: Exports, name: str) -> None:
    case = exported(name, SMALL)
    assert len(case.model.predict(*sequence(case))[0]) > 100
    assert agreement(case.model, case.load(), *sequence(case)).boxes > 0.99  # scores that tie at the end of the list


@pytest.mark.parametrize("align", ["during", "after"])
def test_both_alignments_of_a_sequence(exported: Exports, align: str) -> None:
    case = exported("bevdet-tiny-4d", SMALL, align=align, raw=True)
    assert case.load().recipe.temporal.align == align
    assert agreement(case.model, case.load(), *sequence(case)).raw < RAW_ERROR


def test_the_same_file_serves_another_calibration(exported: Exports) -> None:
    case = exported("bevdet-tiny", SMALL, raw=True)
    deployed, (images, rig) = case.load(), sequence(case)
    before = deployed.outputs(images, rig)
    turned = torch.eye(4)
    turned[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    turned[0, 3] = 0.4
    other = dataclasses.replace(rig, cam_to_ego=turned @ rig.cam_to_ego)
    assert agreement(case.model, deployed, images, other).raw < RAW_ERROR
    assert not torch.equal(deployed.outputs(images, other)["task0_heatmap"], before["task0_heatmap"])
    assert torch.equal(deployed.outputs(images, rig)["task0_heatmap"], before["task0_heatmap"])


@pytest.mark.parametrize("samples", [1, 3])
def test_any_number_of_samples(exported: Exports, samples: int) -> None:
    case = exported("bevdet-tiny", SMALL, batch=None)
    images, rig = sequence(case, samples)
    images = images + torch.arange(samples).view(-1, 1, 1, 1, 1, 1)
    assert agreement(case.model, case.load(), images, rig).boxes > 0.98


def test_two_samples_side_by_side_with_their_state(exported: Exports) -> None:
    case = exported("bevdet-tiny-4d", SMALL, raw=True, batch=2)
    images, rig = sequence(case, 2)
    images[1] += 1
    assert agreement(case.model, case.load(), images, rig).raw < RAW_ERROR


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "bevdet-tiny-occ" else pytest.mark.slow) for name in FAST],
)
def test_half_precision_is_as_good_as_that_of_pytorch(exported: Exports, name: str) -> None:
    """At most twice the error of the same half-precision graph run by PyTorch, in the mean."""
    case = exported(name, SMALL, raw=True, precision="fp16")
    deployed, (images, rig) = case.load(), sequence(case)
    with torch.no_grad():
        wanted = planes(case.model(images, rig))
        in_torch = DeployedDetector(deployed.manifest, TorchSession(case.step()))
        half = planes(in_torch.raw(in_torch.outputs(images, rig)))
    got = planes(deployed.raw(deployed.outputs(images, rig)))
    for exact, by_torch, ours in zip(wanted, half, got, strict=True):
        assert (ours - exact).abs().mean() <= 2 * (by_torch - exact).abs().mean() + 1e-5 * exact.std()


def test_uint8_images_are_processed_in_the_graph(exported: Exports) -> None:
    case = exported("bevdet-tiny", SMALL, raw=True, preprocess=True, raw_size=(400, 225))
    deployed, (_, rig) = case.load(), sequence(case)
    raw = torch.randint(0, 256, (1, 1, 6, 225, 400, 3), dtype=torch.uint8)
    processed = case.step().preprocessing(raw[:, 0])[:, None]
    with torch.no_grad():
        wanted = case.model(processed, rig)
    got = deployed.raw(deployed.outputs(raw, rig))
    for a, b in zip(planes(got), planes(wanted), strict=True):
        assert (a - b).abs().max() / b.std() < RAW_ERROR


class TorchSession:
    """The graph before its export."""

    device = torch.device("cpu")
    fixed_tables = False

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.step(inputs)


def planes(outputs: object) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else [plane for task in outputs for plane in task]


@pytest.mark.parametrize("name", FAST)
def test_only_standard_operators_with_batch_norm_folded(exported: Exports, name: str) -> None:
    model = onnx.load(exported(name, SMALL, raw=True).folder / "model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert len(model.functions) == 0
    convolved = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    normalised = {node.input[0] for node in model.graph.node if node.op_type == "BatchNormalization"}
    assert not convolved & normalised


@pytest.mark.parametrize("name", TEMPORAL)
def test_sampling_takes_the_form_that_onnx_runtime_is_fast_at(exported: Exports, name: str) -> None:
    graph = onnx.load(exported(name, SMALL, raw=True).folder / "model.onnx").graph
    sampling = [node for node in graph.node if node.op_type == "GridSample"]
    assert len(sampling) == 1 + (name == "bevdet-tiny-stereo")  # history, and stereo
    aligned = [attribute.i for node in sampling for attribute in node.attribute if attribute.name == "align_corners"]
    assert not any(aligned)


@pytest.mark.parametrize("name", FAST)
def test_the_file_does_not_say_where_it_was_made(exported: Exports, name: str) -> None:
    content = (exported(name, SMALL, raw=True).folder / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(torch.__file__).parent).encode() not in content


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": None}, "export it for a fixed batch"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"opset": 16}, "opset must be at least 18"),
        ({"table_margin": 0.5}, "table_margin must be at least 1"),
    ],
)
def test_options_that_cannot_be(tmp_path: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(create_model("bevdet-tiny-4d").eval(), tmp_path, ExportOptions(**options))


def test_images_of_another_size_are_named(exported: Exports) -> None:
    case = exported("bevdet-tiny", SMALL, raw=True)
    images, rig = sequence(case)
    with pytest.raises(ValueError, match=r"wants images \(1, 1, 6, 3, 64, 192\) float32, got \(1, 1, 6, 3, 64, 190\)"):
        case.load().predict(images[..., :190], rig)


def test_a_stream_out_of_order_is_refused_and_goes_on(exported: Exports) -> None:
    case = exported("bevdet-tiny-4d", SMALL, raw=True)
    stream = case.load().stream()
    (images, rig), *_ = drive(case.model, 1)
    stream(images, rig, timestamp=1.0)
    with pytest.raises(StreamOrderError, match=r"after 1\.0"):
        stream(images, rig, timestamp=1.0)
    stream(images, rig, timestamp=1.5)


def test_the_state_of_a_stream_can_be_taken_out_and_put_back(exported: Exports) -> None:
    case = exported("bevdet-tiny-stereo", SMALL, raw=True)
    deployed = case.load()
    first, second = deployed.stream(scene_start="hold-first"), deployed.stream(scene_start="hold-first")
    frames = list(drive(case.model, 3))
    for now, (images, rig) in enumerate(frames[:2]):
        first(images, rig, timestamp=now / 2)
    second.load_state(first.state())
    images, rig = frames[2]
    a, b = (stream.outputs(images, rig, timestamp=1.0) for stream in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match="missing \\['maps'\\]"):
        second.load_state({name: t for name, t in first.state().items() if name != "maps"})


def test_a_recipe_without_history_is_not_streamed(exported: Exports) -> None:
    with pytest.raises(ValueError, match="has no history"):
        exported("bevdet-tiny", SMALL, raw=True).load().stream()
