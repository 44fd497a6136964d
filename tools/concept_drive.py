"""A rendered drive and the axes to draw it on, for ``draw_concepts.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from bev_lss import CameraRig, DepthBins, LiftSplat, depth_labels
from bev_nuscenes import (
    BevAugmentation,
    DataOptions,
    ImageAugmentation,
    NuscenesDataset,
    NuscenesIndex,
    Sample,
    open_index,
)
from bev_nuscenes.synthetic import make_world
from bev_ops import BevGrid, PoolPlan, bev_pool

__all__ = ["BLUE", "GREY", "INPUT_SIZE", "ORANGE", "Drive", "arrow", "from_above", "lidar_map", "open_drive", "outline"]

INPUT_SIZE = (256, 704)
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # told apart by the colour-blind


@dataclass(frozen=True)
class Drive:
    """Two key frames in a row, half a second apart, as a model gets them, and what they were made from."""

    now: Sample  # two frames: now, and then
    then: Sample  # the second of them by itself
    augmented: Sample  # now, with a draw of the augmentation of training
    camera_images: Tensor  # (2, N, H', W', 3) uint8 RGB, as the cameras gave them

    @property
    def rig(self) -> CameraRig:
        """The cameras of now and then, (1, 2, N, …)."""
        return rig_of(self.now)


def rig_of(sample: Sample) -> CameraRig:
    """The cameras of one sample, B = 1."""
    return CameraRig(**{name: matrices[None] for name, matrices in sample.cameras.items()})


def open_drive(folder: Path, position: int = 2) -> Drive:
    """Render four key frames into a folder, unless they are there, and read those around ``position``."""
    make_world(folder, scenes=1, samples_per_scene=4, sweeps=0, variety=1.0)
    index = open_index(DataOptions(root=str(folder)))

    def read(at: int, frames: int, **options: object) -> Sample:
        return _dataset(index, frames, **options)[at]

    return Drive(
        now=read(position, 2, with_depth=True),
        then=read(position - 1, 1, with_depth=True),
        augmented=read(position, 1, training=True, images="fast", seed=3),
        camera_images=read(position, 2, images="raw").images,
    )


def _dataset(index: NuscenesIndex, frames: int, **options: object) -> NuscenesDataset:
    return NuscenesDataset(
        index,
        "mini_train",
        input_size=INPUT_SIZE,
        frames=frames,
        image_augmentation=ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True),
        bev_augmentation=BevAugmentation((-22.5, 22.5), (0.95, 1.05), flip_x=0.5, flip_y=0.5),
        **options,
    )


def lidar_map(sample: Sample, cameras: CameraRig, t: int = 0) -> np.ndarray:
    """Where LiDAR hit something higher than 0.6 m, lifted through the cameras of frame t: (Y, X) from 0 to 1.

    LiDAR's depth of every feature pixel in place of a predicted one, and a context of ones: what a network would make
    of this frame if it knew its depths.
    """
    bins, stride = DepthBins(1.0, 60.0, 0.25), 8
    grid = BevGrid(x=(-32.0, 32.0, 0.4), y=(-32.0, 32.0, 0.4), z=(0.0, 3.0, 0.6))
    labels = depth_labels(sample.depth[None], bins, stride)  # (1, N, h, w)
    depth = torch.nn.functional.one_hot(labels.clamp(min=0), bins.count).movedim(-1, 2) * (labels >= 0)[:, :, None]
    lift = LiftSplat(1, 1, grid, bins, stride=stride)
    plan = PoolPlan.from_points(lift.points(cameras.frame_cameras(t), tuple(labels.shape[-2:])), grid)
    pooled = bev_pool(depth.float(), torch.ones_like(labels[:, :, None], dtype=torch.float32), plan)
    return pooled[0, 0, 1:].sum(0).clamp(max=1).numpy()  # the lowest layer is the road


def from_above(axes: Axes, reach: float, title: str) -> None:
    """Axes that look down on the ego: x ahead is up, y left is left, both to ``reach`` metres."""
    axes.set(xlim=(reach, -reach), ylim=(-reach, reach), aspect="equal", title=title)
    axes.set(xlabel="y, metres (left is positive)", ylabel="x, metres (ahead)")
    axes.plot([0.9, 0.9, 0, -0.9, -0.9, 0.9], [-1, 3, 3.8, 3, -1, -1], color="black", linewidth=1.2, zorder=5)


def arrow(axes: Axes, start: Sequence[float], end: Sequence[float], label: str = "", colour: str = "black") -> None:
    """An arrow between two points of the axes, with a word at its tip."""
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style, zorder=6)
    axes.annotate(label, end, xytext=(4, 4), textcoords="offset points", color=colour, fontsize=9, zorder=6)


def outline(box: Sequence[float]) -> np.ndarray:
    """The footprint of a box from above, front edge twice so that a line closes: (6, 2) x, y metres."""
    x, y, _, length, width, _, yaw = box[:7]
    corners = np.array([(0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)]) * (length, width)
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    return corners @ turn + (x, y)
