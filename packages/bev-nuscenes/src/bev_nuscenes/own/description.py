"""Own data, described: cameras, poses, boxes. The format of the file is the reference at the end of docs/own-data.md.

Frames and axes, the same everywhere in this package (right-handed, metres, radians, seconds):

    ego                               camera                          image
         z up                              z forward (optical axis)        +----> u (columns)
         |   x forward                    /                                |
         |  /                            +----> x right                    |
         | /                             |                                 v v (rows)
    y left <---+                         v y down

    cam_to_ego     what is at p in the camera's frame is at cam_to_ego @ p in the ego's; its last column is the place of
                   the camera in the ego frame.
    ego_to_global  the same from the ego frame to a frame that stands still; its last column is the place of the ego.
    intrinsics     [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] pixels, for images without distortion.
    yaw            counter-clockwise seen from above; 0 looks along x.

The origin of the ego frame stands on the ground (nuScenes: under the middle of the rear axle): networks place their
voxels about it, so a frame whose origin is at the height of a sensor gives boxes at wrong heights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..taxonomy import CLASSES

__all__ = ["OwnBox", "OwnCamera", "OwnData", "OwnFrame", "OwnLidar", "OwnReading", "OwnScene"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnCamera:
    """One camera of the rig.

    Attributes:
        name: its name in the file.
        folder: folder of its images, relative to that of the data.
        size: (width, height) of its images, pixels.
        intrinsics: (3, 3) float64, pixels.
        cam_to_ego: (4, 4) float64.
    """

    name: str
    folder: str
    size: tuple[int, int]
    intrinsics: np.ndarray
    cam_to_ego: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnLidar:
    """The LiDAR: folder of its files, and ``lidar_to_ego`` (4, 4) float64."""

    folder: str
    lidar_to_ego: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnReading:
    """An image or a LiDAR file.

    Attributes:
        file: relative to the sensor's folder.
        timestamp: seconds, where it differs from that of the frame.
        ego_to_global: (4, 4) float64 at that time, where it differs from that of the frame.
    """

    file: str
    timestamp: float | None = None
    ego_to_global: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnBox:
    """One annotated object.

    Attributes:
        name: class, one of CLASSES or of the data's own that ``OwnData.classes`` translates.
        centre: (x, y, z) of the middle of the box, metres.
        size: (length, width, height), metres.
        yaw: radians, in the frame that ``frame`` names.
        frame: ``ego`` (at the time of the frame) or ``global``.
        velocity: (vx, vy) metres per second in that frame; None where unknown.
        points: LiDAR points in it; 0 hides it from training and evaluation, None stands for "not counted".
        track: the same text for the same object in all frames of a scene.
        attribute: one of ATTRIBUTES.
    """

    name: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    frame: Literal["ego", "global"]
    velocity: tuple[float, float] | None = None
    points: int | None = None
    track: str | None = None
    attribute: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnFrame:
    """One moment.

    Attributes:
        number: its place in the scene, counted from 0.
        timestamp: seconds.
        ego_to_global: (4, 4) float64.
        images: per camera its image; a frame that lacks one is left out of samples.
        lidar: its LiDAR file.
        boxes: annotated objects.
    """

    number: int
    timestamp: float
    ego_to_global: np.ndarray
    images: dict[str, OwnReading]
    lidar: OwnReading | None = None
    boxes: tuple[OwnBox, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnScene:
    """A drive. History never crosses from one scene into another.

    Attributes:
        name: unique.
        frames: in order of time.
        cameras: where this drive had another calibration: the data's cameras in their order; None: those of the data.
        lidar: likewise.
    """

    name: str
    frames: tuple[OwnFrame, ...]
    cameras: tuple[OwnCamera, ...] | None = None
    lidar: OwnLidar | None = None

    def token(self, frame: OwnFrame) -> str:
        """Name of a frame that is unique in the data set: scene and place in it."""
        return f"{self.name}-{frame.number:06d}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnData:
    """A data set of one's own.

    Attributes:
        root: folder that the cameras' folders lie in.
        file: the file that describes it.
        cameras: in the order of every tensor with a camera axis.
        reference_camera: the camera whose ego pose the boxes stand in; matters only where images have poses of their
            own.
        scenes: the drives.
        lidar: the LiDAR, if there is one.
        classes: own class -> one of CLASSES, None for objects to ignore. Names of CLASSES need no entry.
        splits: name -> names of scenes; ``all`` is always there.
        posed: whether the file gives poses; False where frames were found in the folders.
    """

    root: Path
    file: Path
    cameras: tuple[OwnCamera, ...]
    reference_camera: str
    scenes: tuple[OwnScene, ...]
    lidar: OwnLidar | None = None
    classes: dict[str, str | None] = field(default_factory=dict)
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    posed: bool = True

    def cameras_of(self, scene: OwnScene) -> tuple[OwnCamera, ...]:
        """The cameras as they were in a drive."""
        return self.cameras if scene.cameras is None else scene.cameras

    def lidar_of(self, scene: OwnScene) -> OwnLidar | None:
        """The LiDAR as it was in a drive."""
        return self.lidar if scene.lidar is None else scene.lidar

    def is_complete(self, frame: OwnFrame) -> bool:
        """Whether a frame has an image of every camera; others are left out."""
        return all(camera.name in frame.images for camera in self.cameras)

    def class_of(self, name: str) -> str | None:
        """Class of an annotation; None for one to ignore."""
        return self.classes.get(name, name if name in CLASSES else None)

    def image_path(self, camera: OwnCamera, reading: OwnReading) -> Path:
        """Path of an image."""
        return self.root / camera.folder / reading.file
