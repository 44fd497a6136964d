"""The same checkpoint gives the published numbers at every stage, and the same boxes or voxel labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bev_zoo import CheckpointError, Detector, create_model, get_recipe, load_checkpoint
from bev_zoo.create import meta_model

from .published import PUBLISHED_SYSTEMS, Published, matched_boxes

# Published module -> ours; behind it stand the call of the module within one inference, and its outputs.
STAGES = {
    "img_backbone": "backbone",
    "img_neck": "neck",
    "img_view_transformer": "view_transform",
    "pre_process_net": "frame_encoder",
    "img_bev_encoder_backbone": "bev_encoder",
    "img_bev_encoder_neck": "bev_neck",
}
BRANCHES = {"reg": "offset", "height": "height", "dim": "size", "rot": "yaw", "vel": "velocity", "heatmap": "heatmap"}
TOLERANCE = 1e-3
# Weights by rule make boxes of 1 km x 1 cm. There the published overlap, in float32, lets duplicates pass that overlap
# by half. Boxes this thin are left out of the comparison.
THINNEST = 1e-3  # width over length

# One system of every kind runs always; the rest with -m slow.
QUICK = {
    "bevdet-r50-cbgs",
    "bevdet-r50-4d-cbgs.align-after",
    "bevdet-r50-4d-depth-cbgs",
    "bevdet-r50-4d-stereo-cbgs",
    "bevdet-r50-4d-stereo-cbgs.no-history",
    "bevdet-swinb-4d-256x704-cbgs-geomim",
    "bevdet-occ-r50-4d-stereo-24e",
}
VARIANTS = (
    "bevdet-r50-4d-cbgs.align-after",
    "bevdet-r50-4d-cbgs.no-history",
    "bevdet-r50-4d-stereo-cbgs.align-after",
    "bevdet-r50-4d-stereo-cbgs.no-history",
)
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in (*PUBLISHED_SYSTEMS, *VARIANTS)
]


@pytest.mark.parametrize("case", CASES)
def test_every_stage_and_the_result_agree(reference: Path, case: str) -> None:
    published = Published(reference, "forward", case)
    model = _model(published)
    calls = _record(model)

    with torch.no_grad():
        outputs = model(published.images(), published.rig())

    errors = {stage: published.stage_error(stage, _ours(stage, calls, outputs)) for stage in published.stages()}
    worst = max(errors, key=errors.get)
    assert errors[worst] < TOLERANCE, f"{worst}: {errors[worst]:.2e} standard deviations"
    _check_result(published, model.head.decode(outputs)[0])


def test_every_system_is_a_recipe() -> None:
    for name in PUBLISHED_SYSTEMS:
        assert get_recipe(name).published is not None


@pytest.mark.parametrize("name", PUBLISHED_SYSTEMS)
def test_manifests_load_with_nothing_left_over(reference: Path, name: str) -> None:
    manifest = Published(reference, "forward", name).manifest
    model = meta_model(get_recipe(name))
    load_checkpoint(model, {key: torch.empty(shape, device="meta") for key, shape in manifest.items()})
    derived = sum(key.endswith("relative_position_index") for key in manifest)
    assert len(model.state_dict()) == len(manifest) - derived


def test_a_trained_checkpoint_loads_from_a_published_file(reference: Path, tmp_path: Path) -> None:
    state = Published(reference, "forward", "bevdet-r50").checkpoint()
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "published.pth")
    model = create_model("bevdet-r50")

    load_checkpoint(model, tmp_path / "published.pth")

    assert torch.equal(model.neck.output_conv.weight, state["img_neck.fpn_convs.0.conv.weight"])
    assert len(model.state_dict()) == len(state)


def test_a_checkpoint_of_another_system_is_recognised(reference: Path) -> None:
    state = Published(reference, "forward", "bevdet-r50-4d-depth-cbgs").checkpoint()
    with pytest.raises(CheckpointError, match="looks like one of bevdet-r50-4d-depth-cbgs"):
        load_checkpoint(create_model("bevdet-r50-4d-cbgs"), state)


def _model(published: Published) -> Detector:
    """The detector of a case, with the weights of the rule."""
    model = create_model(
        published.name,
        input_size=published.input_size,
        align="after" if published.variant == "align-after" else None,
    ).eval()
    load_checkpoint(model, published.checkpoint())
    model.use_history = published.variant != "no-history"
    return model


def _record(model: torch.nn.Module) -> dict[str, list[list[torch.Tensor]]]:
    """Outputs of the compared modules, call by call, filled when the model runs."""
    calls: dict[str, list[list[torch.Tensor]]] = {theirs: [] for theirs in STAGES}
    for theirs, ours in STAGES.items():
        module = getattr(model, ours)
        if module is None:
            continue

        def hook(module: object, inputs: object, output: object, theirs: str = theirs) -> None:
            calls[theirs].append([output] if isinstance(output, torch.Tensor) else list(output))

        module.register_forward_hook(hook)
    head = model.head
    if hasattr(head, "conv"):
        calls["final_conv"] = []
        head.conv.register_forward_hook(lambda module, inputs, output: calls["final_conv"].append([output.relu()]))
    return calls


def _ours(stage: str, calls: dict[str, list[list[torch.Tensor]]], outputs: object) -> torch.Tensor:
    """Our tensor of a published stage, which is called module/callK/output or pts_bbox_head/call0/taskT/branch."""
    module, call, output = stage.split("/", 2)
    if module == "pts_bbox_head":
        task, branch = output.split("/")
        return getattr(outputs[int(task.removeprefix("task"))], BRANCHES[branch])
    if module == "predicter":
        return outputs
    return calls[module][int(call.removeprefix("call"))][int(output)]


def _check_result(published: Published, result: object) -> None:
    if "boxes" in published.values:
        wanted, got = _not_thin(_published_rows(published)), _not_thin(_rows(result))
        assert len(wanted) > 100
        assert matched_boxes(wanted, got) >= 0.98
        return
    labels = published.values["occupancy.labels"]
    assert (result.numpy() == labels).mean() >= 0.999


def _published_rows(published: Published) -> np.ndarray:
    boxes = published.values["boxes"].copy()
    boxes[:, 2] += boxes[:, 5] / 2  # the published boxes hold the bottom centre
    return np.column_stack([boxes, published.values["scores"], published.values["labels"]])


def _not_thin(rows: np.ndarray) -> np.ndarray:
    return rows[np.minimum(rows[:, 3], rows[:, 4]) > THINNEST * np.maximum(rows[:, 3], rows[:, 4])]


def _rows(detections: object) -> np.ndarray:
    return np.column_stack([detections.boxes.numpy(), detections.scores.numpy(), detections.labels.numpy()])
