"""What the viewer shows, as shapes, and how it moves through a split; the window itself only where open3d draws."""

import importlib.util
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import CLASSES, FREE, OCCUPANCY_SHAPE, DataOptions
from bev_vis.__main__ import main
from bev_vis.frame import Boxes
from bev_vis.inner import HeatmapView
from bev_vis.palette import NUSCENES
from bev_vis.predictions import Prediction
from bev_vis.scene import MAX_BOXES, MAX_FACES, MAX_POINTS, build_scene, voxel_cubes
from bev_vis.source import open_source
from bev_vis.view import LAYERS, Browser

CAR = CLASSES.index("car")


@pytest.fixture
def source(world):
    return open_source(DataOptions(root=str(world)))


@pytest.fixture
def frame(source):
    return source.frame(0)


def boxes_at(centers, velocity=(0.0, 0.0), score=0.9):
    rows = [(*center, 4, 2, 1.6, 0, *velocity) for center in centers]
    return Boxes.from_ego(np.array(rows, float).reshape(-1, 9), np.full(len(rows), CAR), np.full(len(rows), score))


def scene_of(frame, predicted=None, voxels=None):
    return build_scene(frame, predicted, voxels, np.tile(frame.ego_to_global[:3, 3], (3, 1)), NUSCENES, images=False)


def test_everything_stands_in_the_ego_frame(frame):
    predicted = boxes_at([(10, 3, 1)], velocity=(5, 0)).transform(frame.ego_to_global)
    scene = scene_of(frame, predicted)
    edges, arrow, plate = scene.layer("predictions").shapes
    np.testing.assert_allclose(edges.positions.min(axis=0), (8, 2, 0.2), atol=1e-6)
    np.testing.assert_allclose(edges.positions.max(axis=0), (12, 4, 1.8), atol=1e-6)
    np.testing.assert_allclose(arrow.positions[1], (15, 3, 1), atol=1e-6)  # the way of one second
    assert plate.positions[plate.corners, 0].min() == pytest.approx(12)  # the front face
    np.testing.assert_allclose(edges.colours, np.tile(NUSCENES.classes[CAR], (12, 1)))
    (true_edges,) = scene.layer("truth").shapes
    np.testing.assert_allclose(true_edges.positions.mean(axis=0), (12, 0, 1), atol=1e-5)  # the car of this world
    assert tuple(layer.name for layer in scene.layers) == LAYERS


def test_cameras_look_where_they_should(frame):
    shapes = scene_of(frame).layer("cameras").shapes
    directions = [shape.positions[1:].mean(axis=0) - shape.positions[0] for shape in shapes]
    yaws = np.degrees([np.arctan2(y, x) for x, y, _ in directions])
    np.testing.assert_allclose(np.abs(yaws), [55, 0, 55, 110, 180, 110], atol=1)


def test_the_ground_is_painted_where_centres_are_likely(frame):
    probability, label = np.full((4, 8), 0.1), np.zeros((4, 8), np.int64)  # 0.1: what an untrained head says everywhere
    probability[3, 0], label[3, 0] = 0.55, CAR
    heatmap = HeatmapView(probability=probability, label=label, lower=(-20.0, -40.0), upper=(20.0, 40.0))
    scene = build_scene(frame, None, None, np.zeros((0, 3)), NUSCENES, images=False, heatmap=heatmap)
    (cell,) = scene.layer("heatmap").shapes
    np.testing.assert_allclose(cell.positions[:, :2], [(10, -40), (20, -40), (20, -30), (10, -30)])
    half_white = (1 + np.array(NUSCENES.classes[CAR])) / 2
    np.testing.assert_allclose(cell.colours, np.tile(half_white, (4, 1)))


def test_a_voxel_is_six_faces_and_two_neighbours_share_none():
    def faces(*cells):
        labels = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
        for cell in cells:
            labels[cell] = 4
        return len(voxel_cubes(labels, NUSCENES, []).corners) // 2

    assert faces((5, 5, 5)) == 6
    assert faces((5, 5, 5), (6, 5, 5)) == 10
    assert faces((0, 0, 0), (199, 199, 15)) == 12  # also at the border of the grid


def test_all_faces_of_a_voxel_look_outward():
    """The other side of a face is not drawn where a viewer culls it, as browsers do."""
    labels = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
    labels[5, 5, 5] = 4
    cube = voxel_cubes(labels, NUSCENES, [])
    a, b, c = np.moveaxis(cube.positions[cube.corners], 1, 0)
    away = (a + b + c) / 3 - cube.positions.mean(axis=0)
    assert (np.sum(np.cross(b - a, c - a) * away, axis=1) > 0).all()


def test_large_frames_are_thinned_and_say_so(frame):
    rng = np.random.default_rng(0)
    full = replace(
        frame,
        points=rng.normal(0, 20, (300_000, 3)),
        truth=boxes_at(rng.normal(0, 20, (20_000, 3))).transform(frame.ego_to_global),
    )
    predicted = boxes_at(rng.normal(0, 20, (20_000, 3)))
    predicted = replace(predicted, score=np.linspace(0, 1, 20_000)).transform(frame.ego_to_global)
    voxels = np.where(rng.random(OCCUPANCY_SHAPE) < 0.5, 4, FREE).astype(np.uint8)  # half of 640,000, few hidden
    began = time.perf_counter()
    scene = scene_of(full, predicted, voxels)
    print(f"20,000 + 20,000 boxes, 300,000 points, 640,000 cells: {time.perf_counter() - began:.2f} s")
    assert len(scene.messages) == 4
    assert [bool(word in " ".join(scene.messages)) for word in ("points", "true", "predicted", "voxels")] == [True] * 4
    assert len(scene.layer("points").shapes[0].positions) == MAX_POINTS
    assert len(scene.layer("predictions").shapes[0].positions) == 8 * MAX_BOXES
    assert len(scene.layer("voxels").shapes[0].corners) == 2 * MAX_FACES


def test_nothing_is_said_where_all_is_shown(frame):
    assert scene_of(frame, boxes_at([(10, 3, 1)])).messages == ()


@pytest.fixture
def browser(source):
    """Frame 1 is seen well and frame 0 badly."""

    def predict(place):
        offset = (1.5, 0.1)[place]
        boxes = source.frame(place, lidar=False).truth
        return Prediction(boxes=replace(boxes, center=boxes.center + offset, score=np.full(len(boxes), 0.5)))

    return Browser(source=source, predictions=predict, place=1, score_threshold=0.3, colours=NUSCENES)


def test_keys_move_through_frames_and_scenes(browser):
    seen = []
    for move in (lambda: browser.step(1), lambda: browser.step(-1), lambda: browser.step(-5)):
        move()
        seen.append(browser.place)
    for scenes in (1, 1, -1):
        browser.step_scene(scenes)
        seen.append(browser.place)
    assert seen == [1, 0, 0, 1, 1, 0]


def test_the_worst_frame_comes_first_and_then_the_next(browser):
    places = []
    for _ in range(3):
        browser.next_worst()
        places.append(browser.place)
    assert places == [0, 1, 0]


def test_with_a_model_only_visited_frames_are_compared(browser):
    slow = replace(browser, instant=False, place=1)
    slow.scene()
    slow.next_worst()
    assert slow.place == 1


def test_voxels_have_no_worst_frame_and_are_not_read_to_find_one(source):
    read = []

    def predict(place):
        read.append(place)
        return Prediction(voxels=np.full(OCCUPANCY_SHAPE, FREE, np.uint8))

    browser = Browser(source=source, predictions=predict, place=1, score_threshold=0.3, colours=NUSCENES)
    browser.next_worst()
    assert (browser.place, set(read)) == (1, {1})


def test_layers_hide_and_the_threshold_drops_boxes(browser):
    browser.toggle("points")
    assert "points" not in [layer.name for layer in browser.scene().layers]
    assert browser.scene().messages == ("hidden: points",)
    browser.toggle("points")
    assert "points" in [layer.name for layer in browser.scene().layers]
    assert browser.scene().messages == ()
    assert browser.scene().layer("predictions").shapes
    for _ in range(5):
        browser.change_threshold(1)
    assert browser.score_threshold == pytest.approx(0.55)
    assert not browser.scene().layer("predictions").shapes


def test_a_screenshot_without_a_display(world, tmp_path, truth_as_results):
    if importlib.util.find_spec("open3d") is None:
        pytest.skip('open3d is not installed: pip install "bev-vis[view]"')
    results = truth_as_results(world, "mini_val", tmp_path / "results.json")
    status = main(["view", str(results), "--data.root", str(world), "--screenshot", "view.png"])
    if status == 2:
        pytest.skip("open3d finds no EGL on this machine, see docs/viewing.md")
    picture = np.asarray(Image.open("view.png")).astype(int)
    assert picture.shape == (800, 1280, 3)
    car = 255 * np.array(NUSCENES.classes[CAR])
    assert (np.abs(picture[:, 300:] - car).max(axis=-1) < 12).sum() > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to draw"),
        (("results.json", "--screenshot", "view.gif"), "--screenshot view.gif must end in .png"),
        (("results.json", "--sample", "7", "--screenshot", "view.png"), "--sample 7 is out of range"),
    ],
)
def test_a_mistake_is_one_line(world, tmp_path, capsys, truth_as_results, arguments, message):
    if "--sample" in arguments and importlib.util.find_spec("open3d") is None:
        pytest.skip("open3d is not installed")
    truth_as_results(world, "mini_val", tmp_path / "results.json")
    assert main(["view", *arguments, "--data.root", str(world)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_open3d_is_one_line(world, tmp_path, capsys, monkeypatch, truth_as_results):
    monkeypatch.setitem(sys.modules, "open3d", None)
    monkeypatch.delitem(sys.modules, "bev_vis.window", raising=False)
    truth_as_results(world, "mini_val", tmp_path / "results.json")
    assert main(["view", "results.json", "--data.root", str(world), "--screenshot", "view.png"]) == 2
    said = capsys.readouterr().err
    assert 'pip install "bev-vis[view]"' in said
    assert said.count("\n") == 1
