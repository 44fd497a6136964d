"""ROS's camera_info and transforms, with made-up but exact geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bev_nuscenes import DataError, NuscenesDataset
from bev_nuscenes.geometry import invert_pose, pose_matrix, quaternion_to_matrix
from bev_nuscenes.own import build_own_index
from bev_nuscenes.own.__main__ import main
from bev_nuscenes.own.ros import StaticTransforms, interpolate_poses, read_camera_info, read_tum, ros_camera

SIZE = (80, 60)
K = np.array([[70.0, 0, 40.5], [0, 71, 29.5], [0, 0, 1]])
NEW_K = np.array([[66.0, 0, 39], [0, 66, 30], [0, 0, 1]])
TURN = quaternion_to_matrix(np.array([0.9998, 0.004, -0.01, 0.006]))
BASE_TO_MAST = ((0.3, 0.1, 1.2), (np.cos(0.2), 0, 0, np.sin(0.2)))  # mast in base_link: place, quaternion w x y z
OPTICAL = ((0.05, 0.0, 0.3), (0.5, -0.5, 0.5, -0.5))  # optical frame in the mast: z forward, x right
D = [-0.28, 0.07, 0.0002, 0.00002, 0.0]


def info(*, distorted: bool = True, message: bool = False, baseline: float = 0.0) -> dict:
    """A camera_info as ``camera_calibration`` writes it, or as the printed message."""
    projection = np.column_stack([NEW_K, [-66 * baseline, 0, 0]])
    distortion = D if distorted else [0.0] * 5
    if message:
        return {
            "header": {"stamp": {"secs": 1, "nsecs": 2}, "frame_id": "front_optical"},
            "width": SIZE[0],
            "height": SIZE[1],
            "distortion_model": "plumb_bob",
            "D": distortion,
            "K": K.ravel().tolist(),
            "R": TURN.ravel().tolist(),
            "P": projection.ravel().tolist(),
        }

    def block(matrix: np.ndarray) -> dict:
        return {"rows": len(matrix), "cols": matrix.shape[1], "data": matrix.ravel().tolist()}

    return {
        "image_width": SIZE[0],
        "image_height": SIZE[1],
        "camera_name": "front",
        "camera_matrix": block(K),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": block(np.array([distortion])),
        "rectification_matrix": block(TURN),
        "projection_matrix": block(projection),
    }


def transforms() -> dict:
    def stamped(parent: str, child: str, place: tuple, turn: tuple) -> dict:
        return {
            "header": {"frame_id": parent},
            "child_frame_id": child,
            "transform": {
                "translation": dict(zip("xyz", map(float, place), strict=True)),
                "rotation": dict(zip("wxyz", map(float, turn), strict=True)),
            },
        }

    return {"transforms": [stamped("base_link", "mast", *BASE_TO_MAST), stamped("mast", "front_optical", *OPTICAL)]}


def optical_to_base() -> np.ndarray:
    steps = (pose_matrix(np.array(turn), np.array(place)) for place, turn in (BASE_TO_MAST, OPTICAL))
    first, second = steps
    return first @ second


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Two cameras, four images each, the second 10 ms late; a car that drives 5 m/s and turns."""
    (tmp_path / "info.yaml").write_text(yaml.safe_dump(info(message=True)) + "---\n")
    (tmp_path / "tf.yaml").write_text(yaml.safe_dump(transforms()))
    rng = np.random.default_rng(0)
    for camera, late in (("front", 0), ("copy", 10_000_000)):
        (tmp_path / camera).mkdir()
        for n in range(4):
            pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(SIZE)
            pixels.save(tmp_path / camera / f"{1_600_000_000_000_000_000 + n * 500_000_000 + late}.png")
    rows = [[1.6e9 + t, 5 * t, 0, 0, 0, 0, np.sin(0.05 * t), np.cos(0.05 * t)] for t in (-1.0, 0.0, 1.0, 2.0)]
    (tmp_path / "poses.txt").write_text("# time x y z qx qy qz qw\n" + "\n".join(" ".join(map(str, r)) for r in rows))
    return tmp_path


@pytest.mark.parametrize("message", [False, True])
@pytest.mark.parametrize("baseline", [0.0, 0.12])
def test_rectified_points_project_alike_along_both_ways(tmp_path: Path, message: bool, baseline: float) -> None:
    (tmp_path / "info.yaml").write_text(yaml.safe_dump(info(message=message, baseline=baseline)))
    read = read_camera_info(tmp_path / "info.yaml")
    optical = np.random.default_rng(0).uniform((-3, -2, 2), (3, 2, 30), (100, 3))
    wanted = np.column_stack([optical @ TURN.T, np.ones(100)]) @ read.projection.T

    camera = ros_camera("front", read, optical_to_base(), folder="front", rectified=True)
    base = np.column_stack([optical, np.ones(100)]) @ optical_to_base().T
    found = (base @ invert_pose(camera.cam_to_ego).T)[:, :3] @ camera.intrinsics.T
    np.testing.assert_allclose(found[:, :2] / found[:, 2:], wanted[:, :2] / wanted[:, 2:], atol=1e-9)


def test_raw_images_without_distortion_have_k(tmp_path: Path) -> None:
    (tmp_path / "info.yaml").write_text(yaml.safe_dump(info(distorted=False)))
    camera = ros_camera(
        "front", read_camera_info(tmp_path / "info.yaml"), optical_to_base(), folder="front", rectified=False
    )
    np.testing.assert_array_equal(camera.intrinsics, K)
    np.testing.assert_array_equal(camera.cam_to_ego, optical_to_base())


def test_transforms_are_chained(drive: Path) -> None:
    tree = StaticTransforms.read(drive / "tf.yaml")
    np.testing.assert_allclose(tree.between("front_optical", "base_link"), optical_to_base(), atol=1e-12)
    forward = tree.between("front_optical", "base_link")[:3, 2]
    np.testing.assert_allclose(forward, [np.cos(0.4), np.sin(0.4), 0], atol=1e-12)
    with pytest.raises(DataError, match="do not lead from 'rear' to 'base_link'; they know base_link, front_optical"):
        tree.between("rear", "base_link")


def test_poses_between_those_of_the_trajectory(drive: Path) -> None:
    times, poses = read_tum(drive / "poses.txt")
    found = interpolate_poses(times, poses, [1.6e9 + 0.25, 1.6e9 + 2])
    np.testing.assert_allclose(found[:, 0, 3], [1.25, 10], atol=1e-6)
    headings = np.arctan2(found[:, 1, 0], found[:, 0, 0])
    np.testing.assert_allclose(headings, [0.025, 0.2], atol=1e-7)
    with pytest.raises(DataError, match="no pose at 1600000003"):
        interpolate_poses(times, poses, [1.6e9 + 3])


def _arguments(drive: Path, *more: str) -> list[str]:
    cameras = [f"--camera={name}={drive / 'info.yaml'}:{name}" for name in ("front", "copy")]
    return ["ros", str(drive), *cameras, "--tf", str(drive / "tf.yaml"), "--poses", str(drive / "poses.txt"), *more]


def test_distorted_images_stop_with_the_way_out(drive: Path, capsys) -> None:
    assert main(_arguments(drive)) == 2
    error = capsys.readouterr().err
    assert "record image_rect and say --rectified, or let --undistort write rectified copies" in error
    assert not (drive / "dataset.yaml").exists()


def test_drive_reads_as_a_data_set(drive: Path) -> None:
    assert main(_arguments(drive, "--rectified")) == 0
    index = build_own_index(drive)
    assert len(index) == 4
    np.testing.assert_allclose(index.cameras.ego_to_global[1, :, 0, 3], [2.5, 2.55], atol=1e-6)  # 10 ms late
    np.testing.assert_array_equal(index.cameras.timestamps[1] - 1_600_000_000_000_000, [500_000, 510_000])
    assert NuscenesDataset(index, "all", input_size=(32, 64), frames=2)[3].images.shape == (2, 2, 3, 32, 64)


def test_undistorted_images_show_points_where_the_calibration_says(drive: Path) -> None:
    """White squares drawn where the distorted camera sees known points lie, once undistorted, where K sees them."""
    import cv2

    points = np.array([[-1.6, 0.9, 5.0], [0.2, -0.8, 4.0], [1.4, 0.8, 5.0]])
    seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(D))
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    for u, v in seen[:, 0]:
        rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
        pixels[np.hypot(columns - u, rows - v) < 2.5] = 255
    for path in (drive / "front").iterdir():
        Image.fromarray(pixels).save(path)
    assert main(_arguments(drive, "--undistort")) == 0
    index = build_own_index(drive)
    np.testing.assert_array_equal(index.cameras.intrinsics[0, 0], K)
    image = np.asarray(Image.open(index.camera_path(0, 0)))[..., 0].astype(float)
    straight = (points @ K.T)[:, :2] / points[:, 2:]
    assert np.linalg.norm(seen[:, 0] - straight, axis=1).max() > 0.5  # the distortion is worth the test
    for wanted in straight:
        window = np.hypot(*(np.mgrid[: SIZE[1], : SIZE[0]][::-1] - wanted[:, None, None])) < 6
        weight = image * window
        rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
        centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
        np.testing.assert_allclose(centre, wanted, atol=0.3)


def test_a_calibration_file_names_no_frame(drive: Path, capsys) -> None:
    (drive / "info.yaml").write_text(yaml.safe_dump(info(distorted=False)))
    assert main(_arguments(drive)) == 2
    assert "names no frame_id; give its optical frame (--optical-frame)" in capsys.readouterr().err
    assert main(_arguments(drive, "--optical-frame=front=front_optical", "--optical-frame=left=front_optical")) == 2
    assert "--optical-frame names left, which no --camera does" in capsys.readouterr().err
    frames = [f"--optical-frame={name}=front_optical" for name in ("front", "copy")]
    assert main(_arguments(drive, *frames)) == 0
    np.testing.assert_allclose(build_own_index(drive).cameras.cam_to_ego[0, 1], optical_to_base(), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda drive: (drive / "tf.yaml").write_text("transforms: []"), "do not lead from 'front_optical'"),
        (
            lambda drive: (drive / "info.yaml").write_text("width: 3\nheight: 2"),
            "field 'distortion_coefficients' is missing",
        ),
        (lambda drive: (drive / "poses.txt").write_text("1 2 3"), "need lines of time x y z qx qy qz qw"),
        (
            lambda drive: (drive / "poses.txt").write_text("0 0 0 0 0 0 0 1\n9e9 0 0 0 0 0 0 0"),
            "need finite numbers and unit quaternions, got [9000000000.0, 0.0",
        ),
        (
            lambda drive: (drive / "info.yaml").write_text(yaml.safe_dump(info(message=True) | {"P": [0.0] * 12})),
            "projection matrix P of camera front has no focal lengths, was the camera calibrated?",
        ),
        (lambda drive: (drive / "front" / "first.png").touch(), "named by their times in seconds or nanoseconds"),
        (lambda drive: [path.unlink() for path in (drive / "copy").iterdir()], "has no .jpg or .png images"),
    ],
)
def test_mistakes_are_one_line(drive: Path, capsys, change, words: str) -> None:
    change(drive)
    assert main(_arguments(drive, "--rectified")) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_images_of_another_size_are_not_undistorted(drive: Path, capsys) -> None:
    first = min((drive / "front").iterdir())
    Image.open(first).resize((40, 30)).save(first)
    assert main(_arguments(drive, "--undistort")) == 2
    assert f"image {first} has 40x30 pixels, its camera_info is for 80x60" in capsys.readouterr().err


def test_cameras_have_names_of_their_own(drive: Path, capsys) -> None:
    assert main(_arguments(drive, "--rectified", f"--camera=front={drive / 'info.yaml'}:copy")) == 2
    assert "cameras need names of their own, got front, copy, front" in capsys.readouterr().err
