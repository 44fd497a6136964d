"""A drive recorded with ROS: a folder of images per camera, named by their time stamps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import DataError
from .description import OwnCamera, OwnData, OwnFrame, OwnReading, OwnScene
from .folders import IMAGES, files_by_stem
from .ros import (
    CameraInfo,
    StaticTransforms,
    interpolate_poses,
    read_camera_info,
    read_tum,
    rectify_image,
    ros_camera,
    undistorted,
)

__all__ = ["RosCamera", "describe_ros"]

_NANOSECONDS = 1e12  # a time above this is none in seconds


@dataclass(frozen=True, kw_only=True)
class RosCamera:
    """Where a camera's things are.

    Attributes:
        name: what to call it.
        info: file of its camera_info.
        folder: of its images, relative to the root; names are times, in seconds or nanoseconds.
        frame: optical frame, where the camera_info does not say it.
    """

    name: str
    info: Path
    folder: str
    frame: str = ""


def describe_ros(
    root: str | Path,
    cameras: list[RosCamera],
    transforms: StaticTransforms,
    *,
    ego: str = "base_link",
    trajectory: str | Path | None = None,
    rectified: bool = False,
    undistort: bool = False,
    tolerance_s: float = 0.05,
    scene: str = "ros",
) -> OwnData:
    """Describe a drive: frames are the images of the first camera, those of the others the nearest in time.

    Args:
        root: folder that the images lie in; the description belongs there as ``dataset.yaml``.
        cameras: the cameras.
        transforms: static transforms from the optical frames to the ego frame.
        ego: name of the ego frame; it must stand on the ground, x forward, z up.
        trajectory: poses of the ego frame, see ``read_tum``; None: an ego that stands still.
        rectified: the images are rectified ones.
        undistort: write copies of raw images without distortion to ``FOLDER_rectified``.
        tolerance_s: seconds up to which an image belongs to a frame.
        scene: name of the drive.

    Raises:
        DataError: a wrong file, raw images with distortion, no pose at the time of an image, two cameras of one name.
    """
    root = Path(root)
    if len({camera.name for camera in cameras}) < len(cameras):
        names = ", ".join(camera.name for camera in cameras)
        raise DataError(f"cameras need names of their own, got {names}")
    infos = {camera.name: read_camera_info(camera.info) for camera in cameras}
    times = {camera.name: _image_times(root / camera.folder) for camera in cameras}
    if undistort and not rectified:
        folders = {camera.name: _write_rectified(root, camera, infos[camera.name]) for camera in cameras}
        infos = {name: undistorted(info) for name, info in infos.items()}
        cameras = [replace(camera, folder=folders[camera.name]) for camera in cameras]
    return OwnData(
        root=root,
        file=root / "dataset.yaml",
        cameras=tuple(_camera(camera, infos[camera.name], transforms, ego, rectified) for camera in cameras),
        reference_camera=cameras[0].name,
        scenes=(OwnScene(name=scene, frames=_frames(times, cameras[0].name, trajectory, tolerance_s)),),
        splits={"all": (scene,)},
    )


def _camera(camera: RosCamera, info: CameraInfo, transforms: StaticTransforms, ego: str, rectified: bool) -> OwnCamera:
    frame = camera.frame or info.frame
    if not frame:
        raise DataError(
            f"camera {camera.name}: {camera.info} names no frame_id; give its optical frame (--optical-frame)"
        )
    pose = transforms.between(frame.lstrip("/"), ego.lstrip("/"))
    return ros_camera(camera.name, info, pose, folder=camera.folder, rectified=rectified)


def _frames(
    times: dict[str, dict[float, str]], first: str, trajectory: str | Path | None, tolerance_s: float
) -> tuple[OwnFrame, ...]:
    frames = []
    in_order = {name: sorted(listed) for name, listed in times.items()}
    track = None if trajectory is None else read_tum(trajectory)
    for number, time in enumerate(in_order[first]):
        images = {}
        for name, listed in times.items():
            nearest = _nearest(in_order[name], time)
            if abs(nearest - time) <= tolerance_s:
                pose = None if track is None or nearest == time else interpolate_poses(*track, [nearest])[0]
                moment = None if nearest == time else nearest
                images[name] = OwnReading(file=listed[nearest], timestamp=moment, ego_to_global=pose)
        pose = np.eye(4) if track is None else interpolate_poses(*track, [time])[0]
        frames.append(OwnFrame(number=number, timestamp=time, ego_to_global=pose, images=images))
    return tuple(frames)


def _nearest(times: list[float], time: float) -> float:
    """The entry of an ascending list that is nearest to a time; of two the earlier."""
    after = bisect_left(times, time)
    return min(times[max(after - 1, 0) : after + 1], key=lambda other: abs(other - time))


def _image_times(folder: Path) -> dict[float, str]:
    """Time in seconds -> name of the images of a folder."""
    found = files_by_stem(folder, IMAGES)
    if not found:
        raise DataError(f"{folder} has no .jpg or .png images")
    times: dict[float, str] = {}
    for stem, name in found.items():
        try:
            times[_seconds(stem)] = name
        except ValueError:
            raise DataError(
                f"images in {folder} must be named by their times in seconds or nanoseconds, got {name}"
            ) from None
    return times


def _seconds(stem: str) -> float:
    value = float(stem)
    return int(stem) / 1e9 if value > _NANOSECONDS else value


def _write_rectified(root: Path, camera: RosCamera, info: CameraInfo) -> str:
    """Write copies without distortion and return their folder."""
    folder = f"{camera.folder.rstrip('/')}_rectified"
    (root / folder).mkdir(parents=True, exist_ok=True)
    names = _image_times(root / camera.folder).values()
    for name in tqdm(names, desc=f"rectifying {camera.name}", unit="image"):
        with Image.open(root / camera.folder / name) as image:
            rectify_image(info, image).save(root / folder / name, quality=95)
    return folder
