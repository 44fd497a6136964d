"""KITTI's calibration, with made-up but exact geometry: points project alike along both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import DataError, NuscenesDataset
from bev_nuscenes.geometry import invert_pose, pose_matrix, quaternion_to_matrix
from bev_nuscenes.own import build_own_index, write_description
from bev_nuscenes.own.__main__ import main
from bev_nuscenes.own.kitti import describe_kitti, read_kitti_calibration, read_oxts

SIZE = (124, 38)
K = np.array([[72.0, 0, 61], [0, 72, 17.3], [0, 0, 1]])
R0 = quaternion_to_matrix(np.array([0.9999, 0.003, -0.005, 0.002]))
VELO_TO_CAM = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ quaternion_to_matrix(np.array([1, 0.004, 0.001, -0.006]))
VELO_TO_CAM = np.column_stack([VELO_TO_CAM, [-0.004, -0.076, -0.272]])
IMU_TO_VELO = np.column_stack([quaternion_to_matrix(np.array([1, 0.0004, 0.0014, 0.007])), [-0.81, 0.32, -0.8]])
BASELINES = {0: 0.0, 2: 0.06, 3: -0.47}  # metres along x of camera 0


def projection(number: int) -> np.ndarray:
    """P_i with the slight offsets in y and z that KITTI's have."""
    return np.column_stack([K, K @ [BASELINES[number], 0.003 * number, 0.001 * number]])


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Three frames of cameras 2 and 3, LiDAR, OXTS data of a car that drives 10 m north per frame."""
    lines = [_line(f"P{number}", projection(number)) for number in BASELINES]
    lines += ["calib_time: 09-Jan-2012 13:57:47", _line("R0_rect", R0), _line("Tr_velo_to_cam", VELO_TO_CAM)]
    (tmp_path / "calib.txt").write_text("\n".join([*lines, _line("Tr_imu_to_velo", IMU_TO_VELO)]) + "\n")
    rng = np.random.default_rng(0)
    for folder in ("image_2", "image_3", "velodyne"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            if folder == "velodyne":
                points = rng.uniform((4, -6, -1.5, 0), (40, 6, 0, 1), (400, 4))
                points.astype(np.float32).tofile(tmp_path / folder / f"{n:06d}.bin")
            else:
                pixels = rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / f"{n:06d}.png")
    step = np.rad2deg(10 / 6378137.0)  # degrees of latitude at the equator
    rows = [[n * step, 8.4, 112.0, 0.01, -0.02, np.pi / 2, *[0.0] * 24] for n in range(3)]
    (tmp_path / "oxts.txt").write_text("\n".join(" ".join(f"{value:.17g}" for value in row) for row in rows))
    return tmp_path


def _line(name: str, matrix: np.ndarray) -> str:
    return f"{name}: " + " ".join(f"{value:.17g}" for value in matrix.ravel())


@pytest.mark.parametrize("number", BASELINES)
def test_points_project_alike_along_both_ways(drive: Path, number: int) -> None:
    points = np.random.default_rng(number).uniform((3, -10, -2), (60, 10, 3), (200, 3))
    homogeneous = np.column_stack([points, np.ones(200)])
    rectify, velo = np.eye(4), np.eye(4)
    rectify[:3, :3], velo[:3] = R0, VELO_TO_CAM
    wanted = homogeneous @ (projection(number) @ rectify @ velo).T

    velo_to_ego = np.eye(4)
    velo_to_ego[2, 3] = 1.73
    calibration = read_kitti_calibration(drive / "calib.txt")
    camera = calibration.camera(number, folder="image", size=SIZE, velo_to_ego=velo_to_ego)
    ego = homogeneous @ velo_to_ego.T
    found = (ego @ invert_pose(camera.cam_to_ego).T)[:, :3] @ camera.intrinsics.T
    np.testing.assert_allclose(found[:, :2] / found[:, 2:], wanted[:, :2] / wanted[:, 2:], atol=1e-9)


def test_names_of_the_other_benchmarks_are_understood(drive: Path, tmp_path: Path) -> None:
    text = (drive / "calib.txt").read_text()
    for name, other in (("R0_rect:", "R_rect"), ("Tr_velo_to_cam:", "Tr_velo_cam"), ("Tr_imu_to_velo:", "Tr_imu_velo")):
        text = text.replace(name, other)
    (tmp_path / "tracking.txt").write_text(text)
    first, second = (read_kitti_calibration(path) for path in (drive / "calib.txt", tmp_path / "tracking.txt"))
    np.testing.assert_array_equal(first.velo_to_rect, second.velo_to_rect)
    np.testing.assert_array_equal(first.imu_to_velo, second.imu_to_velo)


@pytest.mark.parametrize("as_folder", [False, True])
def test_poses_follow_the_drive(drive: Path, as_folder: bool) -> None:
    path = drive / "oxts.txt"
    if as_folder:
        lines, path = path.read_text().splitlines(), drive / "oxts"
        path.mkdir()
        for n, line in enumerate(lines):
            (path / f"{n:010d}.txt").write_text(line + "\n")
    poses = read_oxts(path)  # heading north: 10 m per frame along the car's own x, but for the tilt
    assert poses.shape == (3, 4, 4)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(poses[1:, :3, 3], axis=1), [10, 20], rtol=1e-6)
    np.testing.assert_allclose(poses[2, :3, 3] / 20, [np.cos(0.02), 0, -np.sin(0.02)], atol=1e-3)


def test_a_point_that_stands_still_stays_where_it_is(drive: Path) -> None:
    """Through IMU, velodyne and ego: the ego poses describe the same drive as those of the IMU."""
    data = describe_kitti(
        drive, read_kitti_calibration(drive / "calib.txt"), images={2: "image_2"}, oxts=drive / "oxts.txt"
    )
    imu_to_velo = np.vstack([IMU_TO_VELO, [0, 0, 0, 1]])
    velo_to_ego = pose_matrix(np.array([1.0, 0, 0, 0]), np.array([0, 0, 1.73]))
    imu = read_oxts(drive / "oxts.txt")
    for n, frame in enumerate(data.scenes[0].frames):
        moved = velo_to_ego @ imu_to_velo @ imu[n] @ invert_pose(velo_to_ego @ imu_to_velo)
        np.testing.assert_allclose(frame.ego_to_global, moved, atol=1e-9)


def test_drive_reads_as_a_data_set(drive: Path) -> None:
    arguments = ["--camera", "2=image_2", "--camera", "3=image_3", "--velodyne", "velodyne"]
    oxts = ["--oxts", str(drive / "oxts.txt")]
    assert main(["kitti", str(drive), "--calib", str(drive / "calib.txt"), *arguments, *oxts]) == 1  # 10 m in 0.1 s
    assert main(["kitti", str(drive), "--calib", str(drive / "calib.txt"), *arguments, *oxts, "--rate-hz", "2"]) == 0
    dataset = NuscenesDataset(build_own_index(drive), "all", input_size=(32, 96), with_depth=True)
    sample = dataset[2]
    assert sample.images.shape == (1, 2, 3, 32, 96)
    assert (sample.depth > 0).sum(dim=(1, 2)).min() > 20
    assert (dataset.index.seconds(2), dataset.index.info.cameras) == (1.0, ("camera_2", "camera_3"))


def test_description_reads_as_it_was_made(drive: Path) -> None:
    data = describe_kitti(drive, read_kitti_calibration(drive / "calib.txt"), images={2: "image_2"})
    write_description(data)
    index = build_own_index(drive)
    np.testing.assert_array_equal(index.cameras.cam_to_ego[0, 0], data.cameras[0].cam_to_ego)
    np.testing.assert_array_equal(index.cameras.ego_to_global[2, 0], np.eye(4))


@pytest.mark.parametrize(
    ("remove", "arguments", "words"),
    [
        ("R0_rect", ["--camera", "2=image_2"], "needs R0_rect with 9 numbers, got 0"),
        ("P", ["--camera", "2=image_2"], "has no projection P0 to P3"),
        ("-", ["--camera", "1=image_2"], "has no P1, it has P0, P2, P3"),
        ("-", ["--camera", "image_2"], "--camera needs N=FOLDER"),
        (
            "-",
            ["--camera", "2=image_2", "--camera", "2=image_3"],
            "--camera names a camera twice: 2=image_2, 2=image_3",
        ),
        ("-", ["--camera", "2=image_2", "--rate-hz", "0"], "frames per second above 0 are needed, got 0"),
        ("-", ["--camera", "2=image_2", "--calib", "image_2/000000.png"], "image_2/000000.png cannot be read: 'utf-8'"),
        ("-", ["--camera", "2=none"], "has no .png or .jpg files"),
        ("Tr_imu", ["--camera", "2=image_2", "--oxts", "oxts.txt"], "has no Tr_imu_to_velo"),
        ("-", ["--camera", "2=image_2", "--oxts", "short.txt"], "has 1 poses for 3 frames"),
    ],
)
def test_mistakes_are_one_line(
    drive: Path, monkeypatch: pytest.MonkeyPatch, capsys, remove: str, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(drive)
    lines = Path("calib.txt").read_text().splitlines()
    Path("calib.txt").write_text("\n".join(line for line in lines if not line.startswith(remove)))
    Path("short.txt").write_text(Path("oxts.txt").read_text().splitlines()[0])
    assert main(["kitti", ".", "--calib", "calib.txt", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_matrix_that_is_no_rotation_is_named(drive: Path) -> None:
    text = (drive / "calib.txt").read_text().replace(_line("R0_rect", R0), _line("R0_rect", 2 * R0))
    (drive / "calib.txt").write_text(text)
    with pytest.raises(DataError, match=r"R0_rect of .* is not a rotation"):
        read_kitti_calibration(drive / "calib.txt")
