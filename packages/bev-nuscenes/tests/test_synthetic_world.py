"""A tiny synthetic world, judged by the official devkit and against the scene it was made from."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import OCCUPANCY_CELL, OCCUPANCY_LOWER, OCCUPANCY_SHAPE, build_index, read_occupancy
from bev_nuscenes.synthetic import WorldOptions, WorldSummary, make_world
from bev_nuscenes.synthetic.actors import CATEGORIES
from bev_nuscenes.synthetic.calibration import LIDAR, RENDERED_CAMERAS
from bev_nuscenes.synthetic.geometry import SceneGeometry
from bev_nuscenes.synthetic.occupancy import LABELS, cell_centers
from bev_nuscenes.synthetic.recorder import shoot_camera, shoot_lidar
from bev_nuscenes.synthetic.schedule import MINI_TRAIN, MINI_VAL, SceneRecord, make_record, make_token

pytest.importorskip("nuscenes", reason="the devkit is an extra of this package: bev-nuscenes[devkit]")

OPTIONS = WorldOptions(scenes=2, samples_per_scene=2, seed=5)

REFERENCES = [  # table, field, table it refers to
    ("calibrated_sensor", "sensor_token", "sensor"),
    ("instance", "category_token", "category"),
    ("instance", "first_annotation_token", "sample_annotation"),
    ("instance", "last_annotation_token", "sample_annotation"),
    ("map", "log_tokens", "log"),
    ("sample", "scene_token", "scene"),
    ("sample", "prev", "sample"),
    ("sample", "next", "sample"),
    ("sample_annotation", "sample_token", "sample"),
    ("sample_annotation", "instance_token", "instance"),
    ("sample_annotation", "visibility_token", "visibility"),
    ("sample_annotation", "attribute_tokens", "attribute"),
    ("sample_annotation", "prev", "sample_annotation"),
    ("sample_annotation", "next", "sample_annotation"),
    ("sample_data", "sample_token", "sample"),
    ("sample_data", "ego_pose_token", "ego_pose"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("sample_data", "prev", "sample_data"),
    ("sample_data", "next", "sample_data"),
    ("scene", "log_token", "log"),
    ("scene", "first_sample_token", "sample"),
    ("scene", "last_sample_token", "sample"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WorldSummary:
    out = tmp_path_factory.mktemp("synthetic") / "world"
    return make_world(out, scenes=2, samples_per_scene=2, seed=5, workers=1, progress=False)


@pytest.fixture(scope="module")
def nusc(made: WorldSummary) -> object:
    from nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(made.root), verbose=False)


@pytest.fixture(scope="module")
def tables(made: WorldSummary) -> dict[str, list[dict]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((made.root / "v1.0-mini").glob("*.json"))}


@pytest.fixture(scope="module")
def record() -> SceneRecord:
    return make_record(OPTIONS, "scene-0103")


@pytest.fixture(scope="module")
def geometry(record: SceneRecord) -> SceneGeometry:
    return SceneGeometry(record.scene)


def test_both_splits_have_a_scene(nusc: object) -> None:
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    names = {scene["name"] for scene in nusc.scene}
    assert names & set(splits["mini_train"]) == {"scene-0061"}
    assert names & set(splits["mini_val"]) == {"scene-0103"}
    assert (set(MINI_TRAIN), set(MINI_VAL)) == (set(splits["mini_train"]), set(splits["mini_val"]))


def test_thirteen_tables_with_unique_tokens(tables: dict[str, list[dict]]) -> None:
    assert len(tables) == 13
    for name, rows in tables.items():
        assert rows, name
        assert len({row["token"] for row in rows}) == len(rows), name


@pytest.mark.parametrize(("table", "field", "target"), REFERENCES)
def test_every_reference_resolves(tables: dict[str, list[dict]], table: str, field: str, target: str) -> None:
    tokens = {row["token"] for row in tables[target]}
    for row in tables[table]:
        values = row[field] if isinstance(row[field], list) else [row[field]]
        assert all(value in tokens or (value == "" and field in ("prev", "next")) for value in values), row


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
def test_chains_run_both_ways_forward_in_time(tables: dict[str, list[dict]], table: str) -> None:
    rows = {row["token"]: row for row in tables[table]}
    times = {row["token"]: row["timestamp"] for row in tables["sample"] + tables["sample_data"]}
    linked = 0
    for row in rows.values():
        if row["next"]:
            after = rows[row["next"]]
            assert after["prev"] == row["token"]
            time, later = (times[r["sample_token" if table == "sample_annotation" else "token"]] for r in (row, after))
            assert later > time
            linked += 1
    assert linked > 0


def test_files_are_what_the_tables_say(made: WorldSummary, tables: dict[str, list[dict]]) -> None:
    for row in tables["sample_data"]:
        path = made.root / row["filename"]
        if row["fileformat"] == "jpg":
            with Image.open(path) as image:
                assert (image.format, image.size, row["width"], row["height"]) == ("JPEG", (1600, 900), 1600, 900)
        else:
            points = np.fromfile(path, dtype=np.float32).reshape(-1, 5)
            assert len(points) > 20_000
            assert set(np.unique(points[:, 4])) <= set(range(32))
    sweeps = [row for row in tables["sample_data"] if not row["is_key_frame"]]
    assert len(sweeps) == OPTIONS.scenes * (OPTIONS.samples_per_scene - 1) * OPTIONS.sweeps
    on_disk = {
        str(path.relative_to(made.root)) for kind in ("samples", "sweeps") for path in made.root.glob(f"{kind}/*/*")
    }
    assert on_disk == {row["filename"] for row in tables["sample_data"]}


def test_cameras_trigger_one_after_the_other_within_50_ms(nusc: object) -> None:
    for sample in nusc.sample:
        shots = [nusc.get("sample_data", sample["data"][channel]) for channel in RENDERED_CAMERAS]
        lags = [sample["timestamp"] - shot["timestamp"] for shot in shots]
        assert 45_000 > lags[0] > lags[1] > lags[2] > lags[3] > lags[4] > lags[5] >= 0
        poses = {tuple(nusc.get("ego_pose", shot["ego_pose_token"])["translation"]) for shot in shots}
        assert len(poses) == len(shots)


def test_velocity_of_the_devkit_is_the_motion_of_the_scene(nusc: object) -> None:
    checked = 0
    for scene in nusc.scene:
        record = make_record(OPTIONS, scene["name"])
        for index, actor in enumerate(record.scene.actors):
            token = make_token(OPTIONS.seed, record.name, "instance", index)
            for annotation in (row for row in nusc.sample_annotation if row["instance_token"] == token):
                if not annotation["prev"] and not annotation["next"]:
                    continue
                time = record.seconds(nusc.get("sample", annotation["sample_token"])["timestamp"])
                before, after = (
                    np.array(actor.path.pose(record.scene.road, time + step)[:2]) for step in (-1e-3, 1e-3)
                )
                velocity = (after - before).astype(float) / 2e-3
                np.testing.assert_allclose(nusc.box_velocity(annotation["token"])[:2], velocity, atol=0.25)
                checked += np.hypot(*velocity) > 1.0
    assert checked > 10, "moving objects were compared"


def test_attributes_suit_their_classes(nusc: object) -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name, detection_name_to_rel_attributes

    for annotation in nusc.sample_annotation:
        allowed = detection_name_to_rel_attributes(category_to_detection_name(annotation["category_name"]))
        names = [nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
        assert len(names) == (1 if allowed else 0)
        assert set(names) <= set(allowed)


def test_all_ten_classes_are_annotated(made: WorldSummary) -> None:
    for split, classes in made.annotations.items():
        assert set(classes) == set(CATEGORIES)
        assert all(count > 0 for count in classes.values()), (split, classes)


def test_perfect_predictions_score_full_marks(made: WorldSummary, nusc: object, tmp_path: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name

    results = {}
    for sample in nusc.sample:
        if nusc.get("scene", sample["scene_token"])["name"] not in MINI_VAL:
            continue
        results[sample["token"]] = [
            {
                "sample_token": sample["token"],
                "translation": row["translation"],
                "size": row["size"],
                "rotation": row["rotation"],
                "velocity": nusc.box_velocity(token)[:2].tolist(),
                "detection_name": category_to_detection_name(row["category_name"]),
                "detection_score": 0.9,
                "attribute_name": nusc.get("attribute", row["attribute_tokens"][0])["name"]
                if row["attribute_tokens"]
                else "",
            }
            for token, row in ((token, nusc.get("sample_annotation", token)) for token in sample["anns"])
            if row["num_lidar_pts"] > 0
        ]
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": meta, "results": results}))
    config = config_factory("detection_cvpr_2019")
    judge = DetectionEval(nusc, config, str(path), "mini_val", str(tmp_path), verbose=False)
    metrics = judge.evaluate()[0].serialize()
    assert metrics["mean_ap"] > 0.99
    assert metrics["tp_errors"]["orient_err"] < 1e-6


def test_boxes_frame_their_objects_in_the_images(nusc: object, record: SceneRecord, geometry: SceneGeometry) -> None:
    """Standing objects, through the devkit's own chain of poses, against the rendered object of every pixel."""
    from nuscenes.utils.geometry_utils import view_points

    key = {shot.channel: shot for shot in record.shots if shot.is_key_frame and shot.frame == 1}
    sample = next(s for s in nusc.sample if s["timestamp"] == key[LIDAR].timestamp)
    index_of = {make_token(OPTIONS.seed, record.name, "instance", i): i for i in range(len(record.scene.actors))}
    framed = 0
    for channel in ("CAM_FRONT", "CAM_BACK_LEFT"):
        picture = shoot_camera(record, geometry, key[channel])
        _, boxes, intrinsics = nusc.get_sample_data(sample["data"][channel])
        for box in boxes:
            index = index_of[nusc.get("sample_annotation", box.token)["instance_token"]]
            path = record.scene.actors[index].path
            if path.s_rate or path.d_rate or box.corners()[2].min() < 0.5 or picture.visible[index] < 100:
                continue
            rows, columns = np.nonzero(picture.objects == index)
            left, top = view_points(box.corners(), np.array(intrinsics), normalize=True)[:2].min(axis=1)
            right, bottom = view_points(box.corners(), np.array(intrinsics), normalize=True)[:2].max(axis=1)
            assert columns.min() >= left - 1 and columns.max() <= right + 1, box.name
            assert rows.min() >= top - 1 and rows.max() <= bottom + 1, box.name
            inside_image = left > 0 and right < 1599 and top > 0 and bottom < 899
            if inside_image and picture.visible[index] == picture.footprints[index]:
                assert columns.max() - columns.min() > 0.75 * (right - left) - 2, box.name
                assert rows.max() - rows.min() > 0.75 * (bottom - top) - 2, box.name
                framed += 1
    assert framed >= 3, "some boxes are seen whole"


def test_lidar_points_lie_on_what_the_cameras_see(record: SceneRecord, geometry: SceneGeometry) -> None:
    """A camera fired at the LiDAR's instant sees no surface behind a LiDAR point, and mostly the very surface."""
    key = {shot.channel: shot for shot in record.shots if shot.is_key_frame and shot.frame == 0}
    lidar = key[LIDAR]
    sweep = shoot_lidar(record, geometry, lidar, OPTIONS.seed)
    now = replace(key["CAM_FRONT"], timestamp=lidar.timestamp, ego_to_global=lidar.ego_to_global)
    picture = shoot_camera(record, geometry, now)
    camera = record.calibration["CAM_FRONT"]
    lidar_to_camera = np.linalg.inv(camera.sensor_to_ego) @ record.calibration[LIDAR].sensor_to_ego
    points = sweep.points[:, :3].astype(np.float64) @ lidar_to_camera[:3, :3].T + lidar_to_camera[:3, 3]
    ahead = points[:, 2] > 1.0
    u, v, _ = camera.intrinsics @ (points[ahead] / points[ahead, 2:]).T
    inside = (u >= 0) & (u <= 1599) & (v >= 0) & (v <= 899)
    pixel = np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)
    depth = points[ahead, 2][inside]
    gap = picture.depth[pixel] - depth  # positive: the camera looks past the point
    tolerance = 0.1 + 0.02 * depth
    assert inside.sum() > 2000
    assert (gap > tolerance).mean() < 0.01
    assert (np.abs(gap) <= tolerance).mean() > 0.9
    on_same = sweep.owners[ahead][inside] == picture.objects[pixel]
    assert on_same[np.abs(gap) <= tolerance].mean() > 0.98


def test_lidar_counts_agree_with_the_devkit(nusc: object) -> None:
    """Every counted point is in the box; what else is in it is the ground below, or rarely a neighbour."""
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    counts, inside, inside_high = [], [], []
    for sample in nusc.sample:
        shot = nusc.get("sample_data", sample["data"][LIDAR])
        cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(shot["token"]))
        for pose in (
            nusc.get("calibrated_sensor", shot["calibrated_sensor_token"]),
            nusc.get("ego_pose", shot["ego_pose_token"]),
        ):
            cloud.rotate(Quaternion(pose["rotation"]).rotation_matrix)
            cloud.translate(np.array(pose["translation"]))
        for token in sample["anns"]:
            within = points_in_box(nusc.get_box(token), cloud.points[:3])
            counts.append(nusc.get("sample_annotation", token)["num_lidar_pts"])
            inside.append(within.sum())
            inside_high.append((within & (cloud.points[2] > 0.05)).sum())
    counts, inside, inside_high = np.array(counts), np.array(inside), np.array(inside_high)
    assert (counts <= inside).all()
    assert (inside_high <= counts).mean() > 0.97
    assert (counts >= 5).mean() > 0.6


def test_visibility_is_the_part_that_shows(nusc: object, record: SceneRecord, geometry: SceneGeometry) -> None:
    assert {row["visibility_token"] for row in nusc.sample_annotation} == {"1", "2", "3", "4"}
    shots = [shot for shot in record.shots if shot.is_key_frame and shot.frame == 0 and shot.channel != LIDAR]
    pictures = [shoot_camera(record, geometry, shot) for shot in shots]
    visible, footprints = (np.sum([getattr(p, name) for p in pictures], axis=0) for name in ("visible", "footprints"))
    assert (visible <= footprints).all()
    levels = np.array(["1", "2", "3", "4"])[np.digitize(visible / np.maximum(footprints, 1), [0.4, 0.6, 0.8])]
    sample = next(s for s in nusc.sample if s["timestamp"] == record.first_time)
    level_of = {make_token(OPTIONS.seed, record.name, "instance", i): level for i, level in enumerate(levels)}
    rows = [nusc.get("sample_annotation", token) for token in sample["anns"]]
    assert [row["visibility_token"] for row in rows] == [level_of[row["instance_token"]] for row in rows]


def test_occupancy_is_where_the_boxes_are(made: WorldSummary, nusc: object) -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name

    for sample in nusc.sample:
        scene = nusc.get("scene", sample["scene_token"])["name"]
        with np.load(made.root / "gts" / scene / sample["token"] / "labels.npz") as file:
            arrays = {name: file[name] for name in file.files}
        assert set(arrays) == {"semantics", "mask_lidar", "mask_camera"}
        assert all(array.shape == (200, 200, 16) and array.dtype == np.uint8 for array in arrays.values())
        semantics, centers = arrays["semantics"], cell_centers()
        claimed = np.zeros(semantics.shape, dtype=bool)
        for box in _boxes_in_ego(nusc, sample):
            label = LABELS[category_to_detection_name(box.name)]
            half = np.array(box.wlh)[[1, 0, 2]] / 2
            first = np.floor((box.center[:2] - half.max() + 39.0) / 0.4).astype(int).clip(0)
            around = np.s_[
                first[0] : first[0] + round(5 * half.max() + 9), first[1] : first[1] + round(5 * half.max() + 9)
            ]
            cells = semantics[around]  # a square around the box, a metre wider than its length on every side
            local = np.abs((centers[around] - box.center) @ box.orientation.rotation_matrix)
            near = (local <= half + 0.45).all(axis=-1)
            claimed[around] |= near & (cells == label)
            if (np.abs(box.center[:2]) < 38).all():
                assert (cells[near] == label).any(), box.name
                if label in (LABELS["bus"], LABELS["car"], LABELS["trailer"]):
                    core = (local <= half * (0.8, 0.7, 0.4)).all(axis=-1)
                    assert (cells[core] == label).mean() > 0.6, box.name
        is_object = (semantics >= 1) & (semantics <= 10) & (arrays["mask_camera"] == 1) & (arrays["mask_lidar"] == 1)
        assert claimed[is_object].mean() > 0.99, "objects that sensors see lie in annotated boxes"
        assert semantics[105, 100, 2] == 11, "the ego car drives on the road"
        assert semantics[100:110, 100, 6:].min() == 17, "and has air above it"


def _boxes_in_ego(nusc: object, sample: dict) -> Iterator[object]:
    from pyquaternion import Quaternion

    shot = nusc.get("sample_data", sample["data"][LIDAR])
    pose = nusc.get("ego_pose", shot["ego_pose_token"])
    for token in sample["anns"]:
        box = nusc.get_box(token)
        box.translate(-np.array(pose["translation"]))
        box.rotate(Quaternion(pose["rotation"]).inverse)
        yield box


def test_lidar_mask_holds_the_cells_that_were_hit(made: WorldSummary, nusc: object) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud
    from pyquaternion import Quaternion

    sample = nusc.sample[0]
    shot = nusc.get("sample_data", sample["data"][LIDAR])
    sensor = nusc.get("calibrated_sensor", shot["calibrated_sensor_token"])
    cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(shot["token"]))
    cloud.rotate(Quaternion(sensor["rotation"]).rotation_matrix)
    cloud.translate(np.array(sensor["translation"]))
    cell = np.floor((cloud.points[:3].T - (-40.0, -40.0, -1.0)) / 0.4).astype(int)
    cell = cell[((cell >= 0) & (cell < (200, 200, 16))).all(axis=1)]
    scene = nusc.get("scene", sample["scene_token"])["name"]
    with np.load(made.root / "gts" / scene / sample["token"] / "labels.npz") as file:
        assert file["mask_lidar"][tuple(cell.T)].mean() > 0.999
        assert (file["semantics"][tuple(cell.T)] != 17).mean() > 0.9
        assert 0.02 < file["mask_camera"].mean() < 0.9


def test_standing_things_keep_their_global_place_from_one_occupancy_to_the_next(made: WorldSummary) -> None:
    """The cells stand in the ego frame of the LiDAR's time stamp; that of a camera, 40 ms earlier, fits worse."""
    index = build_index(made.root, "v1.0-mini", progress=False)
    for now in np.flatnonzero(index.frames.previous >= 0):
        before = index.frames.previous[now]
        one, two = (read_occupancy(index.occupancy_path(k)).semantics for k in (before, now))
        standing = (one >= LABELS["driveable_surface"]) & (one != LABELS["free"])
        agreement = {}
        for name, poses in (("lidar", index.lidar.ego_to_global), ("camera", index.cameras.ego_to_global[:, 0])):
            then_to_now = np.linalg.inv(poses[now]) @ index.lidar.ego_to_global[before]
            moved = cell_centers()[standing] @ then_to_now[:3, :3].T + then_to_now[:3, 3]
            cells = np.floor((moved - OCCUPANCY_LOWER) / OCCUPANCY_CELL).astype(int)
            inside = ((cells >= 0) & (cells < OCCUPANCY_SHAPE)).all(axis=1)
            agreement[name] = (two[tuple(cells[inside].T)] == one[standing][inside]).mean()
        assert agreement["lidar"] > 0.95
        assert agreement["lidar"] > agreement["camera"]


def test_cameras_see_a_sensible_part_of_the_occupancy(made: WorldSummary) -> None:
    index = build_index(made.root, "v1.0-mini", progress=False)
    for position in range(len(index)):
        truth = read_occupancy(index.occupancy_path(position))
        seen = np.bincount(truth.semantics[truth.mask_camera], minlength=len(LABELS)) / truth.mask_camera.sum()
        assert 0.15 < truth.mask_camera.mean() < 0.7
        assert 0.8 < seen[LABELS["free"]] < 0.98, "cameras mostly see air"
        assert min(seen[LABELS[name]] for name in ("driveable_surface", "terrain", "manmade", "vegetation")) > 1e-3


def test_map_mask_is_white_under_the_ego_car(nusc: object) -> None:
    for scene in nusc.scene:
        mask = nusc.get("map", nusc.get("log", scene["log_token"])["map_token"])["mask"]
        shot = nusc.get("sample_data", nusc.get("sample", scene["first_sample_token"])["data"][LIDAR])
        x, y, _ = nusc.get("ego_pose", shot["ego_pose_token"])["translation"]
        assert mask.is_on_mask([x], [y]).all()
        assert mask.mask().mean() < 200, "not everything is road"


BYTES_BEFORE_THERE_WAS_WEATHER = {  # first digits of the SHA-256 of files of OPTIONS
    "v1.0-mini/*.json": "8ad5fce8aacc7a2f",
    "synthetic.json": "76b3ed92ef8927cc",
    "samples/CAM_*/*": "c8cf15b33b171a15",
    "*/LIDAR_TOP/*": "abae1fb48f742b31",
    "gts/*/*/labels.npz": "578a4abdd7dabf9a",
    "maps/*": "51f6a6e81f000e22",
}


def _arithmetic() -> str:
    """Changes with whatever may change a rendered byte though nobody changed the world: numpy's kernels, the codecs."""
    line = np.linspace(0.1, 3.0, 4001)
    values = np.exp(line.astype(np.float32)), np.sin(line), np.cos(line), np.arctan2(line, 1.0 - line)
    image, file = np.arange(96 * 96 * 3, dtype=np.uint32).reshape(96, 96, 3) ** 2 % 251, io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=90)
    deflated = zlib.compress(image.tobytes())
    return hashlib.sha256(b"".join(v.tobytes() for v in values) + file.getvalue() + deflated).hexdigest()[:16]


def test_a_world_of_default_options_keeps_its_bytes(made: WorldSummary) -> None:
    if _arithmetic() != "e58af6e3a1505868":
        pytest.skip("numpy or an image library computes otherwise here than where the checksums were recorded")
    for files, wanted in BYTES_BEFORE_THERE_WAS_WEATHER.items():
        digest = hashlib.sha256()
        for path in sorted(made.root.glob(files)):
            digest.update(path.read_bytes())
        assert digest.hexdigest()[:16] == wanted, files
