"""The same checkpoint gives the published numbers at every stage, and the same boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bev_zoo import create_model, load_checkpoint

from .published import Published, matched_boxes

SYSTEMS = ("bevdet-r50", "bevdet-r50-cbgs")
# Published module -> ours; the number behind it counts the module's outputs.
STAGES = {
    "img_backbone": "backbone",
    "img_neck": "neck",
    "img_view_transformer": "view_transform",
    "img_bev_encoder_backbone": "bev_encoder",
    "img_bev_encoder_neck": "bev_neck",
}
BRANCHES = {"reg": "offset", "height": "height", "dim": "size", "rot": "yaw", "vel": "velocity", "heatmap": "heatmap"}
TOLERANCE = 1e-3


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stage_and_all_boxes_agree(reference: Path, name: str) -> None:
    published = Published(reference, "forward", name)
    model = create_model(name, input_size=published.input_size).eval()
    load_checkpoint(model, published.checkpoint())
    stages = _record(model)

    with torch.no_grad():
        outputs = model(published.images(), published.rig())

    errors = {
        f"{theirs} output {i}": published.stage_error(f"{theirs}/call0/{i}", tensor)
        for theirs, ours in STAGES.items()
        for i, tensor in enumerate(stages[ours])
    }
    errors |= {
        f"task {t} {theirs}": published.stage_error(f"pts_bbox_head/call0/task{t}/{theirs}", getattr(output, ours))
        for t, output in enumerate(outputs)
        for theirs, ours in BRANCHES.items()
    }
    worst = max(errors, key=errors.get)
    assert errors[worst] < TOLERANCE, f"{worst}: {errors[worst]:.2e} standard deviations"

    detections = model.predict(published.images(), published.rig())[0]
    assert matched_boxes(_published_rows(published), _rows(detections)) >= 0.98


def test_a_trained_checkpoint_loads_from_a_published_file(reference: Path, tmp_path: Path) -> None:
    published = Published(reference, "forward", "bevdet-r50")
    state = published.checkpoint()
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "published.pth")
    model = create_model("bevdet-r50")

    load_checkpoint(model, tmp_path / "published.pth")

    assert torch.equal(model.neck.output_conv.weight, state["img_neck.fpn_convs.0.conv.weight"])
    assert len(model.state_dict()) == len(state)


def _record(model: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Outputs of the compared modules, filled when the model runs."""
    outputs: dict[str, list[torch.Tensor]] = {}
    for name in STAGES.values():

        def hook(module: object, inputs: object, output: object, name: str = name) -> None:
            outputs[name] = [output] if isinstance(output, torch.Tensor) else list(output)

        getattr(model, name).register_forward_hook(hook)
    return outputs


def _published_rows(published: Published) -> np.ndarray:
    boxes = published.values["boxes"].copy()
    boxes[:, 2] += boxes[:, 5] / 2  # the published boxes hold the bottom centre
    return np.column_stack([boxes, published.values["scores"], published.values["labels"]])


def _rows(detections: object) -> np.ndarray:
    return np.column_stack([detections.boxes.numpy(), detections.scores.numpy(), detections.labels.numpy()])
