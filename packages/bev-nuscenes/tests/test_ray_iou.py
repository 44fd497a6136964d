"""RayIoU: where rays start, what they hit, and scores of scenes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from bev_nuscenes import (
    FREE,
    OCCUPANCY_CELL,
    OCCUPANCY_CLASSES,
    OCCUPANCY_LOWER,
    OCCUPANCY_SHAPE,
    DataError,
    RayIouCounts,
    build_index,
    cast_rays,
    lidar_rays,
    ray_origins,
)
from bev_nuscenes import ray_iou as module

CAR, BUS, MANMADE = (OCCUPANCY_CLASSES.index(name) for name in ("car", "bus", "manmade"))
ORIGIN = np.array([0.94, 0.03, 1.84])


def free() -> np.ndarray:
    return np.full(OCCUPANCY_SHAPE, FREE, dtype=np.uint8)


def wall(x: int, label: int = MANMADE, y: slice = slice(None)) -> np.ndarray:
    """A wall one cell thick, at cell x, from the bottom to the top of the grid."""
    labels = free()
    labels[x, y] = label
    return labels


def score(prediction: np.ndarray, truth: np.ndarray, origins: np.ndarray = ORIGIN[None]):
    counts = RayIouCounts()
    counts.add(prediction, truth, origins)
    return counts.figures()


# -- rays --------------------------------------------------------------------------------------------------------------


def test_rays_are_those_of_the_published_evaluation():
    rays = lidar_rays()
    assert rays.shape == (39 * 360, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0)
    elevation = np.arcsin(rays[::360, 2])
    rings = 1 / np.tan(-elevation[:10])
    np.testing.assert_allclose(rings, np.arange(1, 11))  # ground distance over height of the sensor
    np.testing.assert_allclose(np.diff(elevation)[8:], elevation[9] - elevation[8])
    assert elevation[-2] < 0.21 <= elevation[-1]
    np.testing.assert_allclose(np.rad2deg(np.arctan2(rays[90, 1], rays[90, 0])), 90.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_wall_at_a_known_distance(axis, sign):
    """Along an axis the ray leaves the wall's cell at its far side."""
    cell = ((ORIGIN - OCCUPANCY_LOWER) / OCCUPANCY_CELL).astype(int)
    labels, place = free(), cell.copy()
    place[axis] += 5 * sign
    labels[tuple(place)] = BUS
    direction = np.eye(3)[[axis]] * sign
    hits = cast_rays(labels, ORIGIN, direction)
    far_side = OCCUPANCY_LOWER[axis] + OCCUPANCY_CELL * (place[axis] + (sign > 0))
    assert hits.labels.tolist() == [BUS]
    assert hits.depth[0] == pytest.approx(abs(far_side - ORIGIN[axis]))


def test_a_ray_that_meets_nothing_ends_where_the_grid_does():
    hits = cast_rays(free(), ORIGIN, np.array([[1.0, 0, 0], [0, -1.0, 0], [0.6, 0, 0.8]]))
    assert hits.labels.tolist() == [FREE] * 3
    assert hits.depth == pytest.approx([40 - 0.94, 40 + 0.03, (5.4 - 1.84) / 0.8])


def test_the_cell_of_the_origin_counts():
    labels = free()
    labels[102, 100, 7] = CAR
    hits = cast_rays(labels, ORIGIN, np.array([[1.0, 0, 0]]))
    assert (hits.labels[0], hits.depth[0]) == (CAR, pytest.approx(1.2 - 0.94))


@pytest.mark.parametrize("origin", [(0.0, 0.0, 5.5), (0.0, 0.0, -1.1), (40.1, 0.0, 0.0)])
def test_an_origin_outside_the_grid_meets_nothing(origin):
    labels = np.full(OCCUPANCY_SHAPE, CAR, dtype=np.uint8)
    assert (cast_rays(labels, np.array(origin), lidar_rays()).labels == FREE).all()


@pytest.mark.parametrize("chunk", [module._CHUNK, 37])
def test_traversal_equals_sampling_every_millimetre(monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(OCCUPANCY_SHAPE) < 0.004, rng.integers(0, 17, OCCUPANCY_SHAPE), FREE).astype(np.uint8)
    directions = rng.normal(size=(200, 3)) * (1, 1, 0.2)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = cast_rays(labels, ORIGIN, directions)
    distance = np.arange(0.0, 60.0, 1e-3)
    agree = 0
    for direction, label, depth in zip(directions, *hits, strict=True):
        cells = np.floor((ORIGIN + distance[:, None] * direction - OCCUPANCY_LOWER) / OCCUPANCY_CELL).astype(int)
        inside = ((cells >= 0) & (cells < OCCUPANCY_SHAPE)).all(axis=1)
        cells = cells[: inside.argmin()]
        seen = labels[tuple(cells.T)]
        if (seen == FREE).all():
            agree += label == FREE and abs(depth - distance[len(cells)]) < 2e-3
            continue
        first = (seen != FREE).argmax()
        leaves = (cells[first:] != cells[first]).any(axis=1)
        end = first + (leaves.argmax() if leaves.any() else len(leaves))
        agree += label == seen[first] and abs(depth - distance[end]) < 2e-3
    assert (hits.labels != FREE).sum() > 60
    assert agree >= 198  # sampling jumps over corners that a ray cuts by less than a millimetre


# -- origins -----------------------------------------------------------------------------------------------------------


def test_origins_are_the_lidars_of_the_scene_in_the_ego_frame_of_now(tiny_index):
    origins = ray_origins(tiny_index, 1)
    assert origins.shape == (3, 3)
    np.testing.assert_allclose(origins[1], [0.9, 0.0, 1.8], atol=1e-9)  # its own
    pose, other = tiny_index.lidar.ego_to_global[1], tiny_index.lidar.ego_to_global[2]
    np.testing.assert_allclose(pose @ [*origins[2], 1.0], other @ [0.9, 0.0, 1.8, 1.0], atol=1e-9)


@pytest.mark.parametrize(
    ("frames", "metres", "expected"),
    [
        (8, 1.0, [-4, -3, -2, -1, 0, 1, 2, 3]),
        (9, 1.0, [-4, -3, -2, -1, 1, 2, 3, 4]),  # numpy rounds 4 * 8 / 7 = 4.57 to 5: now itself is left out
        (41, 1.0, [-20, -14, -9, -3, 3, 9, 14, 20]),
        (41, 13.0, [-3, -2, -1, 0, 1, 2]),  # the LiDAR is 0.9 m before the ego frame: 39.9 m ahead is too far
    ],
)
def test_at_most_eight_origins_spread_over_the_scene(tiny_index, monkeypatch, frames, metres, expected):
    now = frames // 2
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = metres * (np.arange(frames) - now)
    mounted = np.tile(np.eye(4), (frames, 1, 1))
    mounted[:, :3, 3] = 0.9, 0.0, 1.8
    lidar = tiny_index.lidar._replace(files=np.full(frames, b"x"), ego_to_global=poses, lidar_to_ego=mounted)
    moved = type(tiny_index)(
        info=tiny_index.info,
        scenes=tiny_index.scenes,
        frames=tiny_index.frames._replace(scenes=np.zeros(frames, np.int32)),
        cameras=tiny_index.cameras,
        lidar=lidar,
        boxes=tiny_index.boxes,
    )
    np.testing.assert_allclose(ray_origins(moved, now)[:, 0], 0.9 + metres * np.array(expected))


def test_a_scene_without_lidar_is_named(own_root, edit_table):
    edit_table("sample_data", lambda records: records.remove(next(r for r in records if r["fileformat"] == "pcd")))
    index = build_index(own_root, "v1.0-mini", progress=False)
    with pytest.raises(DataError, match="sample scene-0061-0 has no LiDAR pose; RayIoU needs one at every key frame"):
        ray_origins(index, 1)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_scores_one_hundred():
    truth = wall(150)
    truth[:, :, 0] = OCCUPANCY_CLASSES.index("driveable_surface")
    truth[30:34, 60:64, 1:4] = CAR
    figures = score(truth, truth)
    assert figures.mean == 100.0
    present = {name for name, values in figures.by_class.items() if values == (100.0, 100.0, 100.0)}
    assert present == {"manmade", "driveable_surface", "car"}
    assert np.isnan([values for name, values in figures.by_class.items() if name not in present]).all()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (0, (100.0, 100.0, 100.0)),
        (2, (100.0, 100.0, 100.0)),  # 0.8 m
        (-2, (100.0, 100.0, 100.0)),
        (4, (0.0, 100.0, 100.0)),  # 1.6 m
        (-4, (0.0, 100.0, 100.0)),
        (8, (0.0, 0.0, 100.0)),  # 3.2 m
        (12, (0.0, 0.0, 0.0)),  # 4.8 m
    ],
)
def test_a_wall_at_a_wrong_distance(cells, expected):
    """Rays meet a window in the true wall within 7 degrees of its normal, so that depth errors are about the shift."""
    truth = free()
    truth[150, 95:105, 5:10] = MANMADE
    figures = score(wall(150 + cells), truth, np.array([[0.0, 0.0, 2.0]]))
    assert figures.by_class["manmade"] == expected
    assert tuple(figures.by_threshold.values()) == expected
    assert figures.mean == pytest.approx(np.mean(expected), abs=0.01)


def test_a_wall_of_the_wrong_class():
    figures = score(wall(150, CAR), wall(150, BUS))
    assert (figures.by_class["car"], figures.by_class["bus"], figures.mean) == ((0.0,) * 3, (0.0,) * 3, 0.0)


def test_what_stands_behind_what_is_seen_does_not_count():
    truth, prediction = wall(150), wall(150)
    truth[151:] = MANMADE
    prediction[160:] = CAR
    assert score(prediction, truth).mean == 100.0


def test_objects_invented_where_the_truth_is_empty_do_not_count_but_in_front_of_it_they_do():
    truth = wall(150, y=slice(100, 200))
    behind, before = truth.copy(), truth.copy()
    behind[20] = CAR  # the rays to the back meet nothing in the ground truth
    before[130, 150] = CAR
    assert score(behind, truth).mean == 100.0
    assert score(before, truth).by_class["car"] == (0.0, 0.0, 0.0)
    assert score(before, truth).by_class["manmade"][0] < 100.0


def test_half_a_wall_is_half_of_the_rays():
    truth = wall(150, y=slice(60, 140))
    half = wall(150, y=slice(100, 140))
    rays = cast_rays(truth, ORIGIN, lidar_rays())
    hit = rays.labels == MANMADE
    upper = cast_rays(half, ORIGIN, lidar_rays()).labels == MANMADE
    assert score(half, truth).by_class["manmade"][0] == round(100 * (upper & hit).sum() / hit.sum(), 2)
    assert 40 < score(half, truth).by_class["manmade"][0] < 60


def test_samples_and_origins_are_pooled():
    truth, prediction = wall(150), wall(150, CAR)
    counts, other = RayIouCounts(), np.array([-10.0, 5.0, 1.8])
    counts.add(truth, truth, np.stack([ORIGIN, other]))
    counts.add(prediction, truth, ORIGIN[None])
    one, two = ((cast_rays(truth, o, lidar_rays()).labels == MANMADE).sum() for o in (ORIGIN, other))
    expected = round(100 * (one + two) / (one + two + one), 2)
    assert counts.figures().by_class["manmade"] == (expected,) * 3


def test_nothing_to_see_is_no_score():
    assert np.isnan(score(wall(150), free()).mean)


@pytest.mark.parametrize("wrong", [np.zeros((200, 200, 15), np.uint8), np.full(OCCUPANCY_SHAPE, 18, np.uint8)])
def test_wrong_arrays_are_refused(wrong):
    with pytest.raises(DataError, match="the prediction"):
        RayIouCounts().add(wrong, free(), ORIGIN[None])
