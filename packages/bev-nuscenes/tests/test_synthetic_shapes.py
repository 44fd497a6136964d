"""The building blocks of the synthetic world: road, meshes, rasteriser."""

from __future__ import annotations

import numpy as np
import pytest

from bev_nuscenes.synthetic.actors import CATEGORIES, MEAN_SIZES, Candidate, make_actor
from bev_nuscenes.synthetic.calibration import euler_to_rotation, make_calibration, rotation_to_quaternion
from bev_nuscenes.synthetic.layout import make_scene, walk_across
from bev_nuscenes.synthetic.mesh import BOX_MARGIN
from bev_nuscenes.synthetic.raster import count_footprints, coverage, facing, inverse_depth_planes, make_spans, resolve
from bev_nuscenes.synthetic.road import SIDEWALK_EDGE, Road

INTRINSICS = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]])
SIZE = (101, 81)


@pytest.mark.parametrize("curvature", [1 / 180, -1 / 180, 1 / 900, -1 / 900])
def test_road_coordinates_are_inverted_exactly(curvature: float) -> None:
    road = Road((120.0, 80.0), 2.5, curvature)
    s, d = np.meshgrid(np.linspace(-150, 150, 31), np.linspace(-40, 40, 9))
    x, y, _ = road.to_global(s, d)
    back_s, back_d = road.to_road(x, y)
    np.testing.assert_allclose(back_s, s, atol=1e-9)
    np.testing.assert_allclose(back_d, d, atol=1e-9)
    step_x, step_y, heading = road.to_global(s + 1e-5, d)
    np.testing.assert_allclose(np.cos(np.arctan2(step_y - y, step_x - x) - heading), 1.0, atol=1e-6)


def test_quaternions_stand_for_their_rotations() -> None:
    for yaw, pitch, roll in np.random.default_rng(0).uniform(-3.1, 3.1, (50, 3)):
        rotation = euler_to_rotation(yaw, pitch, roll)
        w, x, y, z = rotation_to_quaternion(rotation)
        again = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        np.testing.assert_allclose(again, rotation, atol=1e-12)
        assert w >= 0


def test_cameras_look_where_their_names_say() -> None:
    sensors = make_calibration(np.random.default_rng(0))
    for name, degrees in {"CAM_FRONT": 0, "CAM_FRONT_LEFT": 55, "CAM_BACK": 180, "CAM_BACK_RIGHT": -110}.items():
        axis = sensors[name].sensor_to_ego[:3, 2]
        off = np.degrees(np.arctan2(axis[1], axis[0])) - degrees
        assert abs((off + 180) % 360 - 180) < 3, name
        assert sensors[name].sensor_to_ego[2, 1] < -0.99, f"{name}: the image's y axis points down"


@pytest.mark.parametrize("kind", CATEGORIES)
@pytest.mark.parametrize("seed", range(6))
def test_shapes_fill_their_boxes_with_flat_faces(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    attribute = "cycle.with_rider" if seed % 2 and kind in ("bicycle", "motorcycle") else None
    width, length, height = size = tuple(np.array(MEAN_SIZES[kind]) * rng.uniform(0.9, 1.1, 3))
    mesh = make_actor(Candidate(kind, None, attribute), size, rng).mesh
    half = np.array([length / 2 - BOX_MARGIN, width / 2 - BOX_MARGIN])
    np.testing.assert_allclose(mesh.corners.min(axis=(0, 1)), [*-half, 0.0], atol=1e-9)
    np.testing.assert_allclose(mesh.corners.max(axis=(0, 1)), [*half, height - BOX_MARGIN], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-9)
    off_plane = np.einsum("fvi,fi->fv", mesh.corners - mesh.corners[:, :1], mesh.normals)
    assert np.abs(off_plane).max() < 0.02, "a face is bent"
    assert ((mesh.colors >= 0) & (mesh.colors <= 1)).all()


def test_nothing_in_a_scene_runs_into_anything_else() -> None:
    scene = make_scene(np.random.default_rng(3), duration=4.5)
    movers = [(scene.ego, (1.8, 2.0, 1.7))] + [(actor.path, actor.size) for actor in scene.actors]
    radius = np.array([min(size[0], size[1]) / 2 for _, size in movers])
    for time in np.arange(0.0, 4.51, 0.25):
        poses = np.array([path.pose(scene.road, time)[:2] for path, _ in movers], dtype=np.float64)
        apart = np.linalg.norm(poses[:, None] - poses[None], axis=-1) + 100 * np.eye(len(movers))
        assert (apart > radius[:, None] + radius[None]).all()


@pytest.mark.parametrize("frames", range(1, 81))
def test_people_stay_on_a_crossing_for_as_long_as_a_scene_may_last(frames: int) -> None:
    duration = 0.5 * (frames - 1)
    for seed in range(5):
        way = walk_across(duration, np.random.default_rng(seed))
        assert max(abs(way.d), abs(way.d + way.d_rate * duration)) <= SIDEWALK_EDGE - 1.0 + 1e-9


def test_all_ten_classes_are_in_every_scene() -> None:
    for seed in range(4):
        kinds = {actor.kind for actor in make_scene(np.random.default_rng(seed), duration=2.0).actors}
        assert kinds == set(CATEGORIES)


def _square(x: tuple[float, float], y: tuple[float, float], z: float) -> np.ndarray:
    """An upright square in a camera frame, facing the camera, padded to eight corners."""
    corners = [(x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z), (x[1], y[0], z)]
    return np.array(corners + corners[-1:] * 4)


TOWARD_CAMERA = np.array([0.0, 0.0, -1.0])


def test_a_square_covers_exactly_its_pixels() -> None:
    corners, normals = _square((-1.05, 1.95), (-0.5, 2.04), 10.0)[None], TOWARD_CAMERA[None]
    spans = make_spans(corners, normals, INTRINSICS, SIZE)
    seen = resolve(spans, inverse_depth_planes(corners, normals, INTRINSICS), SIZE)
    face = seen.face.reshape(SIZE[::-1])
    rows, columns = np.nonzero(face == 0)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (40, 69, 35, 60)
    assert len(rows) == 30 * 26
    np.testing.assert_allclose(seen.inverse_depth[seen.face == 0], 0.1, rtol=1e-5)
    assert (coverage(spans, SIZE) == (seen.face == 0)).all()


def test_the_nearer_face_hides_the_farther_in_either_order() -> None:
    near, far = _square((0.0, 1.0), (-1.0, 1.0), 5.0), _square((-2.0, 2.0), (-2.0, 2.0), 10.0)
    for corners, hidden in ((np.stack([near, far]), 1), (np.stack([far, near]), 0)):
        normals = np.stack([TOWARD_CAMERA] * 2)
        spans = make_spans(corners, normals, INTRINSICS, SIZE)
        seen = resolve(spans, inverse_depth_planes(corners, normals, INTRINSICS), SIZE)
        whole = count_footprints(spans, np.arange(2), 2)
        shown = np.bincount(seen.face[seen.face >= 0], minlength=2)
        assert whole[hidden] == 41 * 41
        assert shown[hidden] == 41 * 41 - 21 * 41
        assert shown[1 - hidden] == whole[1 - hidden] == 21 * 41


def test_faces_that_reach_behind_the_camera_are_cut_by_the_image() -> None:
    ground = np.array([(-50.0, 1.5, -50.0), (50.0, 1.5, -50.0), (50.0, 1.5, 80.0), (-50.0, 1.5, 80.0)])
    corners = np.concatenate([ground, np.repeat(ground[-1:], 4, axis=0)])[None]
    normals = np.array([[0.0, -1.0, 0.0]])
    seen = resolve(
        make_spans(corners, normals, INTRINSICS, SIZE), inverse_depth_planes(corners, normals, INTRINSICS), SIZE
    )
    face = seen.face.reshape(SIZE[::-1])
    assert (face[:41] == -1).all(), "nothing above the horizon"
    assert (face[45:] == 0).all()
    inverse_depth = seen.inverse_depth.reshape(SIZE[::-1])
    np.testing.assert_allclose(inverse_depth[60], (60 - 40) / 100 / 1.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("normal", "two_sided", "seen"),
    [((0, 0, -1), False, True), ((0, 0, 1), False, False), ((0, 0, 1), True, True), ((1, 0, 0), True, False)],
)
def test_only_faces_turned_to_the_camera_are_drawn(normal: tuple[float, ...], two_sided: bool, seen: bool) -> None:
    corners = _square((0.0, 0.0), (-1.0, 1.0), 5.0) if normal[0] else _square((-1.0, 1.0), (-1.0, 1.0), 5.0)
    assert facing(corners[None], np.array([normal], dtype=float), np.array([two_sided]))[0] == seen
    behind = corners * (1.0, 1.0, -1.0)
    assert not facing(behind[None], -np.array([normal], dtype=float), np.array([two_sided]))[0]
