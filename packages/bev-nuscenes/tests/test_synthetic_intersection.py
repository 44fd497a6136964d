"""Intersections: curved and changing motion, traffic lights, and truth that stays exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bev_nuscenes import read_occupancy
from bev_nuscenes.synthetic import WorldSummary, make_world
from bev_nuscenes.synthetic.actors import EGO_CENTER_AHEAD, EGO_SIZE
from bev_nuscenes.synthetic.calibration import LIDAR, euler_to_rotation, invert_transform
from bev_nuscenes.synthetic.geometry import SceneGeometry
from bev_nuscenes.synthetic.intersection import make_crossing_scene
from bev_nuscenes.synthetic.occupancy import LABELS, LOWER, cell_centers
from bev_nuscenes.synthetic.recorder import actor_center, shoot_camera, shoot_lidar
from bev_nuscenes.synthetic.road import PARKING_EDGE, Part, Surface
from bev_nuscenes.synthetic.routes import (
    AMBER_LAMP,
    GREEN_LAMP,
    RED_LAMP,
    Pace,
    Route,
    Signal,
    join_with_turns,
    lane_points,
)
from bev_nuscenes.synthetic.schedule import SceneRecord, WorldOptions, ego_pose, make_record, make_token

NAME, FRAMES = "scene-0061", 4
OPTIONS = WorldOptions(scenes=1, samples_per_scene=FRAMES, seed=6, sweeps=0, intersections=True, variety=0.3)
DURATION = 9.5
SEEDS = range(5)


@pytest.fixture(scope="module")
def scenes() -> list:
    return [make_crossing_scene(np.random.default_rng(seed), DURATION) for seed in SEEDS]


@pytest.fixture(scope="module")
def record() -> SceneRecord:
    return make_record(OPTIONS, NAME)


@pytest.fixture(scope="module")
def geometry(record: SceneRecord) -> SceneGeometry:
    return SceneGeometry(record.scene)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WorldSummary:
    return make_world(
        tmp_path_factory.mktemp("crossing") / "world",
        scenes=1,
        samples_per_scene=FRAMES,
        seed=6,
        sweeps=0,
        intersections=True,
        variety=0.3,
        workers=1,
        progress=False,
    )


def test_distance_is_the_integral_of_speed() -> None:
    pace = Pace((1.0, 3.0, 4.0), (8.0, 0.0, 6.0))
    times = np.linspace(-2.0, 7.0, 90_001)
    summed = np.concatenate([[0.0], np.cumsum((pace.speed(times)[1:] + pace.speed(times)[:-1]) / 2 * np.diff(times))])
    summed -= summed[20_000]  # at time 0
    np.testing.assert_allclose(pace.distance(times), summed, atol=1e-6)
    assert pace.distance(-1.0) == -8.0


def test_routes_look_along_their_way_at_their_pace(scenes: list) -> None:
    step, checked = 1e-3, 0
    for scene in scenes:
        for path in [scene.ego] + [actor.path for actor in scene.actors if isinstance(actor.path, Route)]:
            for time in np.linspace(0.1, DURATION, 7):
                before, now, after = (np.array(path.pose(scene.road, time + k * step)) for k in (-1, 0, 1))
                velocity = (after - before)[:2] / (2 * step)
                speed = float(path.pace.speed(time))
                assert np.hypot(*velocity) == pytest.approx(speed, abs=0.03)
                if speed > 0.5:
                    along = velocity @ (np.cos(now[2]), np.sin(now[2])) / np.hypot(*velocity)
                    assert along > 0.9995
                    checked += 1
    assert checked > 100


def test_turns_are_smooth() -> None:
    scene = make_crossing_scene(np.random.default_rng(0), DURATION)
    road, branch = scene.road, scene.road.branch
    enter = lane_points(road, branch.junction - 60, branch.junction - 11.5, -1.75)
    leave = lane_points(branch.road, 11.5, 60, -1.75)
    points = join_with_turns([enter, leave])
    assert abs(abs(points[-1, 2] - points[0, 2]) - np.pi / 2) < 0.3, "a left turn"
    assert np.abs(np.diff(points[:, 2])).max() < 0.1 / 6.0, "no tighter than six metres"


def test_some_turn_some_stop_and_start_and_the_ego_car_does_either(scenes: list) -> None:
    times = np.linspace(0.0, DURATION, 60)
    turning = stopping = starting = 0
    for scene in scenes:
        for path in (actor.path for actor in scene.actors if isinstance(actor.path, Route)):
            speed = path.pace.speed(times)
            turning += np.ptp(path.pose(scene.road, times)[2]) > 0.5
            stopping += speed[0] > 3 and speed.min() < 0.1
            starting += speed[0] < 0.1 and speed.max() > 3
    assert min(turning, stopping, starting) >= 3, (turning, stopping, starting)
    assert len({scene.about for scene in scenes}) >= 3


def test_nothing_at_an_intersection_runs_into_anything_else(scenes: list) -> None:
    for scene in scenes[:3]:
        movers = [(scene.ego.shifted(EGO_CENTER_AHEAD), EGO_SIZE)]
        movers += [(actor.path, actor.size) for actor in scene.actors]
        radius = np.array([min(size[0], size[1]) / 2 for _, size in movers])
        for time in np.arange(0.0, DURATION, 0.25):
            poses = np.array([path.pose(scene.road, time)[:2] for path, _ in movers], dtype=np.float64)
            apart = np.linalg.norm(poses[:, None] - poses[None], axis=-1) + 100 * np.eye(len(movers))
            assert (apart > radius[:, None] + radius[None]).all()


def test_vehicles_keep_to_the_asphalt_and_scenery_off_it(scenes: list) -> None:
    for scene in scenes:
        for actor in scene.actors:
            if isinstance(actor.path, Route):
                x, y, _ = actor.path.pose(scene.road, np.linspace(0.0, DURATION, 20))
                assert (scene.road.surface(x, y) == Surface.DRIVEABLE).all(), actor.kind
        x, y = (np.array([getattr(prop, axis) for prop in scene.props]) for axis in "xy")
        assert (scene.road.surface(x, y) != Surface.DRIVEABLE).all()


@pytest.mark.parametrize(
    ("time", "lamp"), [(-1.0, RED_LAMP), (2.0, GREEN_LAMP), (4.9, GREEN_LAMP), (5.5, AMBER_LAMP), (7.5, RED_LAMP)]
)
def test_lights_change(time: float, lamp: int) -> None:
    assert Signal(2.0, 5.0).lamp(time) == lamp


def test_lights_of_crossing_roads_are_never_green_together(scenes: list) -> None:
    for scene in scenes:
        signals = {prop.signal for prop in scene.props if prop.signal}
        for time in np.linspace(0.0, DURATION, 100):
            green = [signal for signal in signals if signal.lamp(time) != RED_LAMP]
            assert len(green) <= 1


def test_the_ground_has_a_junction_and_a_branch(scenes: list) -> None:
    for road in (scene.road for scene in scenes):
        middle = road.to_global(road.branch.junction, 2.0 * (road.branch.side or 1))
        away = road.branch.road.to_global(40.0 if road.branch.side >= 0 else -40.0, 3.0)
        before = road.to_global(road.branch.junction - 40.0, 3.0)
        x, y = (np.array([place[axis] for place in (middle, away, before)]) for axis in (0, 1))
        assert (road.surface(x, y) == Surface.DRIVEABLE).all()
        assert road.locate(x, y)[2].tolist() == [Part.JUNCTION, Part.BRANCH, Part.MAIN]
        assert abs(road.to_road(*away[:2])[1]) > PARKING_EDGE, "where the arc alone has buildings"


def test_boxes_frame_their_objects_in_the_images(record: SceneRecord, geometry: SceneGeometry) -> None:
    """All actors, turning ones too, with the boxes at the image's own time."""
    framed = 0
    for channel in ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK"):
        shot = next(s for s in record.shots if s.frame == 3 and s.channel == channel)
        picture, camera, time = (
            shoot_camera(record, geometry, shot),
            record.calibration[channel],
            record.seconds(shot.timestamp),
        )
        to_camera = invert_transform(shot.ego_to_global @ camera.sensor_to_ego)
        for index in np.flatnonzero(picture.visible > 30):
            corners = _corners(record, index, time) @ to_camera[:3, :3].T + to_camera[:3, 3]
            if corners[:, 2].min() < 0.5:
                continue
            u, v, _ = camera.intrinsics @ (corners / corners[:, 2:]).T
            rows, columns = np.nonzero(picture.objects == index)
            assert columns.min() >= u.min() - 1 and columns.max() <= u.max() + 1
            assert rows.min() >= v.min() - 1 and rows.max() <= v.max() + 1
            framed += isinstance(record.scene.actors[index].path, Route)
    assert framed >= 3


def _corners(record: SceneRecord, index: int, time: float) -> np.ndarray:
    actor = record.scene.actors[index]
    width, length, height = actor.size
    signs = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    turn = euler_to_rotation(float(actor.path.pose(record.scene.road, time)[2]))
    return signs * (length / 2, width / 2, height / 2) @ turn.T + actor_center(record, index, time)


def test_lidar_points_lie_in_the_boxes_of_what_they_hit(record: SceneRecord, geometry: SceneGeometry) -> None:
    shot = next(s for s in record.shots if s.frame == 2 and s.channel == LIDAR)
    sweep, time = shoot_lidar(record, geometry, shot, OPTIONS.seed), record.seconds(shot.timestamp)
    to_global = shot.ego_to_global @ record.calibration[LIDAR].sensor_to_ego
    points = sweep.points[:, :3].astype(float) @ to_global[:3, :3].T + to_global[:3, 3]
    hit = 0
    for index in np.unique(sweep.owners[(sweep.owners >= 0) & (sweep.owners < len(record.scene.actors))]):
        actor = record.scene.actors[index]
        turn = euler_to_rotation(float(actor.path.pose(record.scene.road, time)[2]))
        local = (points[sweep.owners == index] - actor_center(record, index, time)) @ turn
        half = np.array(actor.size)[[1, 0, 2]] / 2
        assert (np.abs(local) <= half + 0.04).all(axis=1).mean() > 0.99
        hit += 1
    assert hit > 10


def test_annotations_move_as_the_scene_does_and_say_who_stands(made: WorldSummary, record: SceneRecord) -> None:
    tables = {path.stem: json.loads(path.read_text()) for path in (made.root / "v1.0-mini").glob("*.json")}
    rows = {row["token"]: row for row in tables["sample_annotation"]}
    stopped, moved = make_token("attribute", "vehicle.stopped"), 0
    for index, actor in enumerate(record.scene.actors):
        instance = make_token(OPTIONS.seed, record.name, "instance", index)
        own = [row for row in rows.values() if row["instance_token"] == instance]
        for row in own:
            frame = next(
                k for k in range(FRAMES) if make_token(OPTIONS.seed, record.name, "sample", k) == row["sample_token"]
            )
            np.testing.assert_allclose(row["translation"], actor_center(record, index, 0.5 * frame), atol=1e-9)
            if isinstance(actor.path, Route) and actor.attribute == "vehicle.moving":
                stands = float(actor.path.pace.speed(0.5 * frame)) < 0.2
                assert (row["attribute_tokens"] == [stopped]) == stands
            if row["prev"] and row["next"]:
                before, after = (np.array(rows[row[key]]["translation"]) for key in ("prev", "next"))
                speed = np.hypot(*(after - before)[:2])
                truth = (
                    np.hypot(
                        *(
                            np.array(actor.path.pose(record.scene.road, 0.5 * frame + 1e-3))
                            - np.array(actor.path.pose(record.scene.road, 0.5 * frame - 1e-3))
                        )[:2]
                    )
                    / 2e-3
                )
                assert speed == pytest.approx(truth, abs=0.6)
                moved += speed > 2.0
    assert moved >= 3


def test_occupancy_has_both_roads_and_the_boxes_in_it(made: WorldSummary, record: SceneRecord) -> None:
    for frame in (0, FRAMES - 1):
        sample = make_token(OPTIONS.seed, record.name, "sample", frame)
        truth = read_occupancy(made.root / "gts" / record.name / sample / "labels.npz")
        pose = ego_pose(record.scene, 0.5 * frame)
        centers = cell_centers()[:, :, 2] @ pose[:3, :3].T + pose[:3, 3]
        ground = truth.semantics[:, :, 2]
        bare = np.isin(ground, [LABELS["driveable_surface"], LABELS["sidewalk"], LABELS["terrain"]])
        surface = record.scene.road.surface(centers[..., 0], centers[..., 1])
        wanted = np.array([LABELS["driveable_surface"], LABELS["sidewalk"], LABELS["terrain"]])[surface]
        assert (ground[bare] == wanted[bare]).mean() > 0.99
        for actor_index, actor in enumerate(record.scene.actors):
            inside = (actor_center(record, actor_index, 0.5 * frame) - pose[:3, 3]) @ pose[:3, :3]
            if (np.abs(inside[:2]) < 38).all() and actor.kind in ("car", "bus", "truck"):
                cell = np.floor((inside - LOWER) / 0.4).astype(int)
                assert truth.semantics[tuple(cell)] == LABELS[actor.kind]


def test_descriptions_say_what_happens(made: WorldSummary, record: SceneRecord) -> None:
    (scene,) = json.loads((Path(made.root) / "v1.0-mini" / "scene.json").read_text())
    assert scene["description"].startswith(f"Synthetic {record.scene.about}, ")
