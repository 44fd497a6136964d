"""The commands of ``python -m bev_nuscenes.own``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..build import build_index
from ..errors import DataError
from .check import check_description, check_files
from .description import OwnData
from .export import export_scenes
from .kitti import LIDAR_HEIGHT, describe_kitti, read_kitti_calibration
from .problems import Problem
from .read import read_description
from .ros import StaticTransforms
from .ros_drive import RosCamera, describe_ros
from .summary import summary
from .write import write_description

__all__ = ["add_check", "add_from_nuscenes", "add_kitti", "add_ros"]


def add_check(parser: argparse.ArgumentParser) -> None:
    """Options of ``check``."""
    parser.add_argument("folder", type=Path, help="folder of the data")
    parser.add_argument("--calib", type=Path, metavar="FILE", help="the description (default: dataset.yaml or .json)")
    parser.add_argument("--no-files", action="store_true", help="do not look at images and LiDAR files")
    parser.set_defaults(command=_check)


def add_from_nuscenes(parser: argparse.ArgumentParser) -> None:
    """Options of ``from-nuscenes``."""
    parser.add_argument("root", type=Path, help="folder of the nuScenes data, or of a synthetic world")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--version", default="v1.0-mini", help="v1.0-mini (default), v1.0-trainval or v1.0-test")
    parser.add_argument("--scenes", nargs="+", metavar="NAME", help="default: all")
    parser.set_defaults(command=_from_nuscenes)


def add_kitti(parser: argparse.ArgumentParser) -> None:
    """Options of ``kitti``."""
    parser.add_argument("root", type=Path, help="folder of the drive; dataset.yaml is written there")
    parser.add_argument("--calib", type=Path, required=True, metavar="FILE", help="P2, R0_rect, Tr_velo_to_cam")
    parser.add_argument(
        "--camera",
        action="append",
        required=True,
        metavar="N=FOLDER",
        help="number of a camera and folder of its images in the root, such as 2=image_2; once per camera",
    )
    parser.add_argument("--velodyne", metavar="FOLDER", help="folder of the LiDAR files in the root")
    parser.add_argument("--oxts", type=Path, help="poses: a file with a line, or a folder with a file per frame")
    parser.add_argument("--rate-hz", type=float, default=10.0, help="frames per second (default: 10)")
    parser.add_argument("--lidar-height", type=float, default=LIDAR_HEIGHT, metavar="M", help="over the ground, metres")
    parser.set_defaults(command=_kitti)


def add_ros(parser: argparse.ArgumentParser) -> None:
    """Options of ``ros``."""
    parser.add_argument("root", type=Path, help="folder of the drive; dataset.yaml is written there")
    parser.add_argument(
        "--camera",
        action="append",
        required=True,
        metavar="NAME=INFO.yaml:FOLDER",
        help="a camera, its camera_info, and the folder of its images in the root; once per camera",
    )
    parser.add_argument("--tf", type=Path, required=True, metavar="FILE", help="static transforms, as YAML")
    parser.add_argument(
        "--optical-frame",
        action="append",
        default=[],
        metavar="NAME=FRAME",
        help="optical frame of a camera whose camera_info does not say it; once per camera",
    )
    parser.add_argument("--ego", default="base_link", help="the ego frame, on the ground (default: base_link)")
    parser.add_argument("--poses", type=Path, metavar="FILE", help="lines of time x y z qx qy qz qw of the ego frame")
    parser.add_argument("--rectified", action="store_true", help="the images are rectified ones")
    parser.add_argument("--undistort", action="store_true", help="write copies without distortion")
    parser.set_defaults(command=_ros)


def _check(options: argparse.Namespace) -> int:
    data, problems = read_description(options.folder, options.calib)
    problems += check_description(data)
    if not options.no_files:
        problems += check_files(data, progress=sys.stderr.isatty())
    return _report(data, problems)


def _report(data: OwnData, problems: list[Problem]) -> int:
    for problem in problems:
        print(f"{problem.level}: {problem}")
    print(summary(data))
    errors = sum(problem.level == "error" for problem in problems)
    print(f"{errors} errors, {len(problems) - errors} warnings")
    return 1 if errors else 0


def _from_nuscenes(options: argparse.Namespace) -> int:
    index = build_index(options.root, options.version, progress=sys.stderr.isatty())
    names = options.scenes or sorted({index.scene_name(position) for position in range(len(index))})
    return _report(export_scenes(index, names, options.out), [])


def _kitti(options: argparse.Namespace) -> int:
    images = dict(map(_kitti_camera, options.camera))
    if len(images) < len(options.camera):
        raise DataError(f"--camera names a camera twice: {', '.join(options.camera)}")
    data = describe_kitti(
        options.root,
        read_kitti_calibration(options.calib),
        images=images,
        velodyne=options.velodyne,
        oxts=options.oxts,
        rate_hz=options.rate_hz,
        lidar_height=options.lidar_height,
    )
    return _write_and_report(data)


def _kitti_camera(text: str) -> tuple[int, str]:
    number, _, folder = text.partition("=")
    if not number.isdigit() or not folder:
        raise DataError(f"--camera needs N=FOLDER, such as 2=image_2, got {text!r}")
    return int(number), folder


def _ros(options: argparse.Namespace) -> int:
    frames = dict(map(_optical_frame, options.optical_frame))
    cameras = [_ros_camera(text, frames) for text in options.camera]
    unknown = frames.keys() - {camera.name for camera in cameras}
    if unknown:
        raise DataError(f"--optical-frame names {', '.join(sorted(unknown))}, which no --camera does")
    data = describe_ros(
        options.root,
        cameras,
        StaticTransforms.read(options.tf),
        ego=options.ego,
        trajectory=options.poses,
        rectified=options.rectified,
        undistort=options.undistort,
    )
    return _write_and_report(data)


def _ros_camera(text: str, frames: dict[str, str]) -> RosCamera:
    name, _, rest = text.partition("=")
    info, _, folder = rest.rpartition(":")
    if not (name and info and folder):
        raise DataError(f"--camera needs NAME=INFO.yaml:FOLDER, such as front=front.yaml:images/front, got {text!r}")
    return RosCamera(name=name, info=Path(info), folder=folder, frame=frames.get(name, ""))


def _optical_frame(text: str) -> tuple[str, str]:
    name, _, frame = text.partition("=")
    if not (name and frame):
        raise DataError(f"--optical-frame needs NAME=FRAME, such as front=front_optical, got {text!r}")
    return name, frame


def _write_and_report(data: OwnData) -> int:
    write_description(data)
    return _report(data, [*check_description(data), *check_files(data)])
