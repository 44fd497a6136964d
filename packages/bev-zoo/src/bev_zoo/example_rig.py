"""A calibration of six cameras, shaped like nuScenes', made up but true to size: benchmarks and exports need no
data set."""

from __future__ import annotations

import math

import numpy as np
import torch

from bev_lss import CameraRig
from bev_nuscenes import CAMERAS, ImageAugmentation
from bev_nuscenes.synthetic.calibration import IMAGE_SIZE, make_calibration, trigger_times

__all__ = ["nuscenes_rig"]

_STEP_S = 0.5  # between key frames
_SPEED_MPS = 10.0
_YAW_RATE = math.radians(4.0)  # per second


def nuscenes_rig(
    input_size: tuple[int, int],
    *,
    frames: int = 1,
    samples: int = 1,
    now: int = 0,
    rolling: bool = False,
    augmentation: ImageAugmentation | None = None,
    seed: int = 0,
) -> CameraRig:
    """Six cameras on a car that drives a wide left turn at 10 m/s, two key frames a second.

    Cameras sit where nuScenes has them, to a centimetre and a quarter of a degree, drawn from the seed; raw images are
    1600 x 900, brought to the network input as evaluation does.

    Args:
        input_size: height and width of the network input, pixels.
        frames: T, newest first.
        samples: B, all alike.
        now: number of the newest frame: 0, 1, ... are consecutive key frames.
        rolling: the cameras fire one after the other within 43 ms, as nuScenes' do, and the car moves on in between.
            Points pile up as they do on a real key frame. If False all fire at the same moment: the poses between them
            are the same in every frame, and one pooling plan serves all.
        augmentation: how evaluation crops; the plain fit to the width if None.
        seed: of the mountings.
    """
    sensors = make_calibration(np.random.default_rng(seed))
    cameras = [sensors[name] for name in CAMERAS]
    image_aug = (augmentation or ImageAugmentation()).fixed(IMAGE_SIZE, input_size).homography()
    lead = (samples, frames, len(cameras))

    def spread(matrices: list[np.ndarray]) -> torch.Tensor:  # one per camera -> (B, T, N, ., .)
        return torch.from_numpy(np.stack(matrices)).float().expand(*lead, -1, -1).contiguous()

    offsets = _firing_times(seed) if rolling else [0.0] * len(cameras)
    poses = torch.stack([_pose((now - t) * _STEP_S + offset) for t in range(frames) for offset in offsets])
    return CameraRig(
        intrinsics=spread([camera.intrinsics for camera in cameras]),
        cam_to_ego=spread([camera.sensor_to_ego for camera in cameras]),
        ego_to_global=poses.view(1, *lead[1:], 4, 4).expand(samples, -1, -1, -1, -1).contiguous(),
        image_aug=spread([image_aug] * len(cameras)),
        bev_aug=torch.eye(3).expand(samples, 3, 3).contiguous(),
    )


def _firing_times(seed: int) -> list[float]:
    """Seconds, per camera, from the first of a turn."""
    times = trigger_times(1_000_000, np.random.default_rng(seed))
    return [(times[name] - min(times.values())) / 1e6 for name in CAMERAS]


def _pose(seconds: float) -> torch.Tensor:
    """Ego to global (4, 4) on the circle that the car drives."""
    yaw = seconds * _YAW_RATE
    radius = _SPEED_MPS / _YAW_RATE
    pose = torch.eye(4)
    pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose[:2, 3] = torch.tensor([radius * math.sin(yaw), radius * (1 - math.cos(yaw))])
    return pose
