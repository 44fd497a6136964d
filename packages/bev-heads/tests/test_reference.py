"""The same inputs give the published targets and boxes (center_head.npz of the reference)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_heads import CenterHead, CenterOutput, DecodeOptions, NmsOptions, center_targets, decode_centers
from bev_ops import BevGrid

# The recipe whose decoding settings each case of center_head.npz was taken with.
RECIPES = {
    "one_task": "bevdet-r50",
    "six_tasks": "bevdet-swinb-4d-stereo-512x1408-cbgs-geomim",
    "six_tasks_08m": "bevdet-swinb-4d-stereo-256x704-cbgs-geomim",
}

# Published names of the branches that have another name here.
RENAMED = {"reg": "offset", "dim": "size", "rot": "yaw", "vel": "velocity"}


def test_targets(reference: Path, published_system: tuple[str, tuple[tuple[str, ...], ...], BevGrid]) -> None:
    name, tasks, grid = published_system
    data = np.load(reference / "data_pipeline.npz")
    boxes, labels = torch.from_numpy(data["gt/boxes"]), torch.from_numpy(data["gt/labels"])
    published = np.load(reference / "center_head.npz")
    for task, target in enumerate(center_targets([boxes], [labels], [len(task) for task in tasks], grid)):
        key = f"{name}/target/{task}"
        heatmap, mask = target.heatmap[0].flatten(), target.mask[0]
        index = heatmap.nonzero()[:, 0]
        np.testing.assert_array_equal(target.heatmap[0].shape, published[f"{key}/heatmap.shape"])
        np.testing.assert_array_equal(index, published[f"{key}/heatmap.index"])
        np.testing.assert_allclose(heatmap[index], published[f"{key}/heatmap.value"], rtol=1e-6)
        np.testing.assert_array_equal(target.cell[0][mask], published[f"{key}/cell"])
        np.testing.assert_allclose(target.box_code[0][mask], published[f"{key}/box_code"], atol=1e-5, rtol=1e-5)


def test_decoded_boxes(reference: Path, published_system: tuple[str, tuple[tuple[str, ...], ...], BevGrid]) -> None:
    name, tasks, grid = published_system
    head = json.loads((reference / "recipes.json").read_text())[RECIPES[name]]["head"]
    outputs = [outputs_by_rule(task, len(classes), grid.size[0]) for task, classes in enumerate(tasks)]
    (ours,) = decode_centers(outputs, grid, decode_options(head, len(tasks)))

    published = np.load(reference / "center_head.npz")
    boxes = ours.boxes.clone()
    boxes[:, 2] -= boxes[:, 5] / 2  # the published boxes hold the bottom
    theirs = [published[f"{name}/decode/{field}"] for field in ("boxes", "scores", "labels")]
    matched = matched_one_to_one(np.column_stack([boxes, ours.scores, ours.labels]), np.column_stack(theirs))
    assert matched >= 0.98


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_parameters_lie_where_published_ones_do(reference: Path, recipe: str) -> None:
    head = json.loads((reference / "recipes.json").read_text())[recipe]["head"]
    manifest = json.loads((reference / "manifest" / f"{recipe}.json").read_text())
    wanted = {}
    for key, shape in manifest.items():
        if key.startswith("pts_bbox_head."):
            parts = [RENAMED.get(part, part) for part in key.removeprefix("pts_bbox_head.").split(".")]
            wanted[".".join(parts)] = shape
    grid = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
    ours = CenterHead(head["in_channels"], head["tasks"], grid, shared_channels=head["shared_channels"])
    assert {key: list(value.shape) for key, value in ours.state_dict().items()} == wanted
    assert list(ours.state_dict()) == list(wanted), "the order of an optimiser's state follows that of the parameters"


def outputs_by_rule(task: int, classes: int, cells: int) -> CenterOutput:
    """Raw predictions by the rule that stands in center_head.npz."""
    rng = np.random.default_rng([5, task])

    def normal(channels: int) -> np.ndarray:
        return rng.standard_normal((1, channels, cells, cells))

    offset = rng.random((1, 2, cells, cells))
    planes = offset, normal(1) * 0.5 - 1, normal(3) * 0.4 + 0.8, normal(2), normal(2), normal(classes) - 4.5
    *code, heatmap = (torch.from_numpy(plane).float() for plane in planes)
    return CenterOutput(heatmap, *code)


def decode_options(head: dict, tasks: int) -> DecodeOptions:
    """The decoding settings of a recipe of the reference, whose NMS settings are per task or one for all."""
    nms = head["nms"]

    def of_task(value: object, task: int) -> object:
        return value[task] if isinstance(value, list) else value

    def factors(task: int) -> tuple[float, ...]:
        rescale = of_task(nms["rescale"], task)
        return tuple(rescale) if isinstance(rescale, list) else (rescale,)

    return DecodeOptions(
        max_candidates=nms["max_per_image"],
        score_threshold=nms["score_threshold"],
        center_range=tuple(head["post_center_range"]),
        nms=tuple(
            NmsOptions(
                kind={"rotate": "rotated", "circle": "circle"}[nms["type"][task]],
                threshold=of_task(nms["threshold"], task),
                radius=nms["circle_radius"][task],
                rescale=factors(task),
                pre_max=nms["pre_max"],
                post_max=nms["post_max"],
            )
            for task in range(tasks)
        ),
    )


def matched_one_to_one(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of rows that have a partner of their own within 1e-3 in every column (yaw may differ by a full turn)."""
    difference = np.abs(ours[:, None] - theirs[None])
    difference[..., 6] = np.minimum(difference[..., 6], np.abs(2 * np.pi - difference[..., 6]))
    close = (difference <= 1e-3).all(axis=2)
    pairs = min(close.any(axis=1).sum(), close.any(axis=0).sum())
    return pairs / max(len(ours), len(theirs))
