"""True boxes of the real key frames lie on the pictures where the official devkit puts them."""

import numpy as np
import pytest
from nuscenes import NuScenes

from bev_nuscenes import DataOptions
from bev_vis.panels import boxes_in_camera
from bev_vis.source import open_source

TILT_M = 0.1
"""Boxes of nine numbers stand upright in the vehicle's frame, annotations in the world's; the vehicle is tilted."""


@pytest.fixture(scope="module")
def devkit(keyframes):
    return NuScenes("v1.0-mini", str(keyframes), verbose=False)


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_corners_agree_with_the_devkit(devkit, keyframes, split):
    options = DataOptions(root=str(keyframes), split=split)
    frame = open_source(options).frame(0)
    compared = 0
    for camera in frame.cameras:
        data = devkit.get("sample", frame.token)["data"][camera.name]
        _, annotated, intrinsics = devkit.get_sample_data(data)
        np.testing.assert_allclose(intrinsics, camera.intrinsics)
        boxes = boxes_in_camera(frame.truth, camera.camera_to_global)
        for box in annotated:
            ours = int(np.linalg.norm(boxes.center - box.center, axis=1).argmin())
            if np.linalg.norm(boxes.center[ours] - box.center) < 0.001:  # else of a class that is not detected
                assert largest_distance(boxes.corners()[ours], box.corners().T) < TILT_M
                compared += 1
    assert compared > 30


def largest_distance(corners, expected):
    """Between corners (8,3) of the camera frame, each with its nearest; the devkit too counts the front face first."""
    assert np.linalg.norm(corners[:4].mean(axis=0) - expected[:4].mean(axis=0)) < TILT_M
    return np.linalg.norm(corners[:, None] - expected[None], axis=-1).min(axis=1).max()


def test_points_lie_in_the_annotated_boxes(devkit, keyframes):
    """The LiDAR reaches the map through a pose of its own: boxes hold as many points as their annotations say."""
    frame = open_source(DataOptions(root=str(keyframes))).frame(0)
    truth = frame.truth.transform(np.linalg.inv(frame.ego_to_global))
    inside = [
        int((np.abs((frame.points - center) @ rotation) <= size / 2).all(axis=1).sum())
        for center, size, rotation in zip(truth.center, truth.size, truth.rotation, strict=True)
    ]
    annotations = [devkit.get("sample_annotation", name) for name in devkit.get("sample", frame.token)["anns"]]
    expected = [
        next(record["num_lidar_pts"] for record in annotations if np.allclose(record["translation"], center, atol=1e-3))
        for center in frame.truth.center
    ]
    assert sum(expected) > 500
    np.testing.assert_allclose(inside, expected, rtol=0.1, atol=5)
