"""Pictures have the right colours where the geometry says so."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import CAMERAS, CLASSES
from bev_vis.compose import render_frame
from bev_vis.frame import Boxes, Camera, Frame
from bev_vis.geometry import transform_points
from bev_vis.inner import DepthView, HeatmapView, InnerView
from bev_vis.page import Layout
from bev_vis.palette import COLOUR_BLIND, NUSCENES
from bev_vis.panels import box_label, within_range

GREY = (90, 90, 90)
IMAGE_SIZE = (1600, 900)
INTRINSICS = np.array([[1266.0, 0, 800], [0, 1266, 450], [0, 0, 1]])
YAW_DEG = dict(zip(CAMERAS, (55, 0, -55, 110, 180, -110), strict=True))
CAR, PEDESTRIAN = CLASSES.index("car"), CLASSES.index("pedestrian")
ORANGE = np.array(NUSCENES.classes[CAR]) * 255
DEPTH = DepthView(
    expected_m=np.full((6, 4, 11), 20.0),
    lidar_m=np.full((6, 4, 11), 25.0),
    input_size=(64, 176),
    image_aug=np.tile(np.diag((0.11, 0.11, 1.0)), (6, 1, 1)),
)


def camera_to_ego(yaw_deg):
    """A camera 1.5 m above the ego origin that looks along ``yaw_deg``, counter-clockwise from ahead."""
    turn, matrix = np.radians(yaw_deg), np.eye(4)
    matrix[:3, :3] = [(np.sin(turn), 0, np.cos(turn)), (-np.cos(turn), 0, np.sin(turn)), (0, -1, 0)]
    matrix[2, 3] = 1.5
    return matrix


@pytest.fixture
def ego_to_global():
    matrix = np.eye(4)
    matrix[:3, :3] = [(0, -1, 0), (1, 0, 0), (0, 0, 1)]
    matrix[:3, 3] = (400, 1100, 0)
    return matrix


@pytest.fixture
def frame(tmp_path, ego_to_global):
    """Six plain grey pictures around the car and no true boxes."""
    path = tmp_path / "grey.jpg"
    Image.new("RGB", IMAGE_SIZE, GREY).save(path)
    cameras = tuple(
        Camera(
            name=name,
            image=path,
            size=IMAGE_SIZE,
            intrinsics=INTRINSICS,
            camera_to_global=ego_to_global @ camera_to_ego(yaw_deg),
        )
        for name, yaw_deg in YAW_DEG.items()
    )
    none = boxes_at([])
    return Frame(token="a" * 32, scene="s", ego_to_global=ego_to_global, cameras=cameras, truth=none, points=None)


def boxes_at(rows, label=CAR):
    """Boxes of the ego frame: x, y, z, length, width, height, yaw, vx, vy each."""
    return Boxes.from_ego(np.array(rows, float).reshape(-1, 9), np.full(len(rows), label))


def camera_panel(picture, name):
    left, top, width, height = Layout().camera(CAMERAS.index(name))
    return picture[top : top + height, left : left + width].astype(int)


def map_panel(picture):
    left, top, width, height = Layout().map
    return picture[top : top + height, left : left + width].astype(int)


def has_colour(panel, column, row, colour, *, reach=2, tolerance=40):
    """Whether a pixel within ``reach`` of a place has a colour (0 to 255)."""
    row, column = round(row), round(column)
    patch = panel[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    return bool((np.abs(patch - np.array(colour)).max(axis=-1) <= tolerance).any())


def projected(points_ego, name):
    """Columns and rows of ego points in the camera's panel, by the plain pinhole formula."""
    camera = transform_points(points_ego, np.linalg.inv(camera_to_ego(YAW_DEG[name])))
    pixels = camera @ INTRINSICS.T
    return pixels[:, :2] / pixels[:, 2:] * Layout().camera_width / IMAGE_SIZE[0]


def test_boxes_are_drawn_at_their_projected_corners(frame, ego_to_global):
    """One car straight ahead of each camera."""
    yaws = np.radians([YAW_DEG[name] for name in CAMERAS])
    boxes = boxes_at([(12 * np.cos(yaw), 12 * np.sin(yaw), 1, 4, 2, 1.6, 0.3, 0, 0) for yaw in yaws])
    picture = render_frame(frame, boxes.transform(ego_to_global))
    for corners, name in zip(boxes.corners(), CAMERAS, strict=True):
        panel = camera_panel(picture, name)
        for column, row in projected(corners, name):
            assert has_colour(panel, column, row, ORANGE)
        column, row = projected(corners.mean(axis=0, keepdims=True), name)[0]
        assert has_colour(panel, column + 150, row, GREY, reach=0, tolerance=2)


@pytest.mark.parametrize("label", [CAR, PEDESTRIAN])
def test_a_box_is_drawn_in_its_colour_in_the_one_camera_that_sees_it(frame, ego_to_global, label):
    colour = np.array(NUSCENES.classes[label]) * 255
    box = boxes_at([(-12, 1, 1, 4, 2, 1.6, 0.3, 0, 0)], label)
    picture = render_frame(frame, box.transform(ego_to_global))
    for name in CAMERAS:
        panel = camera_panel(picture, name)[22:]  # below the caption
        assert (np.abs(panel - GREY).max(axis=-1) > 40).any() == (name == "CAM_BACK")
        assert (np.abs(panel - colour).max(axis=-1) < 40).any() == (name == "CAM_BACK")


def test_the_front_face_is_tinted(frame, ego_to_global):
    approaching = boxes_at([(12, 0, 1, 4, 2, 1.6, np.pi, 0, 0)])
    leaving = boxes_at([(12, 0, 1, 4, 2, 1.6, 0, 0, 0)])
    beside_the_middle = approaching.corners()[0, :4].mean(axis=0) + np.array([0, 0.9, 0.7])
    ((column, row),) = projected(beside_the_middle[None], "CAM_FRONT")
    near = camera_panel(render_frame(frame, approaching.transform(ego_to_global)), "CAM_FRONT")
    far = camera_panel(render_frame(frame, leaving.transform(ego_to_global)), "CAM_FRONT")
    # This place lies in the near face alone: the far one is smaller on the picture.
    assert near[round(row), round(column), 0] > GREY[0] + 30
    assert has_colour(far, column, row, GREY, reach=0, tolerance=2)


def test_truth_is_white_on_pictures_and_dashed(frame, ego_to_global):
    truth = boxes_at([(12, 0, 1, 4, 2, 1.6, 0.3, 0, 0)])
    picture = render_frame(replace(frame, truth=truth.transform(ego_to_global)), boxes_at([]))
    panel = camera_panel(picture, "CAM_FRONT")
    corners = projected(truth.corners()[0], "CAM_FRONT")
    along = np.linspace(0, 1, 60)[:, None]
    lower_back_edge = corners[4] + along * (corners[5] - corners[4])
    brightness = np.array(
        [panel[round(row) - 1 : round(row) + 2, round(column)].max() for column, row in lower_back_edge]
    )
    assert (brightness > 200).any()
    assert (brightness < 130).any()
    assert not has_colour(panel, *corners.mean(axis=0), ORANGE, reach=150)


def test_the_map_has_ahead_up_and_left_left(frame, ego_to_global):
    box = boxes_at([(30, 20, 1, 4, 2, 1.6, 0, 0, 0)])
    panel = map_panel(render_frame(frame, box.transform(ego_to_global)))
    hits = np.argwhere(np.abs(panel - ORANGE).max(axis=-1) < 40)
    side = Layout().map_side
    rows, columns = (hits.mean(axis=0) + 0.5) / side * 2 * 51.2 - 51.2
    assert abs(-columns - 20) < 0.5
    assert 30 < -rows < 31.5  # the heading tick lies ahead of the centre
    extent = (hits.max(axis=0) - hits.min(axis=0)) / side * 2 * 51.2
    np.testing.assert_allclose(extent, [4, 2], atol=0.5)


def test_velocity_is_an_arrow_of_one_second(frame, ego_to_global):
    cases = {10: ((0, 10), True), 0: ((0.1, 0), False), -10: ((np.nan, np.nan), False)}
    boxes = boxes_at([(x, 5, 1, 4, 2, 1.6, 0, *velocity) for x, (velocity, _) in cases.items()])
    panel = map_panel(render_frame(frame, boxes.transform(ego_to_global)))
    scale = Layout().map_side / 2 / 51.2
    for x, (_, seen) in cases.items():
        column, row = (51.2 - 12) * scale, (51.2 - x) * scale  # where y = 12
        assert has_colour(panel, column, row, ORANGE) == seen


def test_boxes_out_of_range_are_left_out_of_every_panel(frame, ego_to_global):
    box = boxes_at([(30, 0, 1, 4, 2, 1.6, 0, 0, 0)]).transform(ego_to_global)
    for range_m, seen in ((51.2, True), (25.0, False)):
        picture = render_frame(frame, box, range_m=range_m)
        for panel in (camera_panel(picture, "CAM_FRONT"), map_panel(picture)):
            assert (np.abs(panel - ORANGE).max(axis=-1) < 40).any() == seen


def test_range_is_a_square():
    boxes = boxes_at([(50, 50, 0, 1, 1, 1, 0, 0, 0), (0, -52, 0, 1, 1, 1, 0, 0, 0), (-52, 0, 0, 1, 1, 1, 0, 0, 0)])
    assert within_range(boxes, 51.2).center.tolist() == [[50, 50, 0]]


def test_points_show_on_the_map(frame):
    bare, pointed = (
        map_panel(render_frame(replace(frame, points=points), boxes_at([])))
        for points in (None, np.array([[20.3, -7.2, 0.0], [200, 0, 0]]))
    )
    changed = np.argwhere((bare != pointed).any(axis=-1))
    scale = Layout().map_side / 2 / 51.2
    np.testing.assert_allclose(changed.mean(axis=0), [(51.2 - 20.3) * scale, (51.2 + 7.2) * scale], atol=1.5)
    assert len(changed) <= 4


def test_the_heatmap_lies_where_its_cells_are(frame):
    probability = np.zeros((8, 8))
    probability[7, 7] = 1.0  # ahead on the left: from 38.4 to 51.2 m both ways
    view = HeatmapView(probability=probability, label=np.full((8, 8), CAR), lower=(-51.2, -51.2), upper=(51.2, 51.2))
    panel = map_panel(render_frame(frame, boxes_at([]), inner=InnerView(heatmap=view)))
    eighth = Layout().map_side / 8
    assert all(has_colour(panel, *corner, ORANGE) for corner in product((4, eighth - 4), repeat=2))
    assert not has_colour(panel, eighth + 6, 4, ORANGE)
    assert not has_colour(panel, 4, eighth + 6, ORANGE)


def test_pictures_of_another_shape_keep_it(frame, tmp_path):
    path = tmp_path / "square.jpg"
    Image.new("RGB", (600, 600), (10, 200, 10)).save(path)
    cameras = (replace(frame.cameras[0], image=path, size=(600, 600)),) * 4
    picture = render_frame(replace(frame, cameras=cameras), boxes_at([]))
    layout = Layout(cameras=4)
    assert picture.shape[:2] == layout.size[::-1]
    left, top, width, height = layout.camera(3)
    green = np.abs(picture[top : top + height, left : left + width].astype(int) - (10, 200, 10)).max(axis=-1) < 8
    assert green.any(axis=1).sum() == height
    assert green.any(axis=0).sum() == height


@pytest.mark.parametrize("seen", [InnerView(), InnerView(depth=DEPTH)], ids=["boxes", "boxes and depth"])
def test_the_legend_stays_under_the_cameras(frame, seen):
    layout = Layout()
    left, top, width, height = layout.legend
    picture = render_frame(frame, boxes_at([(10, 0, 1, 4, 2, 1.6, 0, 0, 0)] * 1000), inner=seen)
    rows = picture[top : top + height]
    assert (rows[:, left : left + width] < 250).any()
    assert (rows[:, left + width : layout.map[0] - 2] > 250).all()


def test_a_missing_image_is_named(frame, tmp_path):
    cameras = (replace(frame.cameras[0], image=tmp_path / "nowhere.jpg"),)
    with pytest.raises(ValueError, match=r"nowhere\.jpg is missing"):
        render_frame(replace(frame, cameras=cameras), boxes_at([]))


def test_truth_and_prediction_stand_on_two_maps(frame, ego_to_global):
    truth, found = (boxes_at([(30, y, 1, 4, 2, 1.6, 0, 0, 0)]) for y in (20, -20))
    shown = replace(frame, truth=truth.transform(ego_to_global))
    picture = render_frame(shown, found.transform(ego_to_global), beside=True)
    layout = Layout(panels=2)
    assert picture.shape[:2] == layout.size[::-1]
    scale = layout.map_side / 2 / 51.2
    row, coloured = (51.2 - 30) * scale, []
    for position in range(2):
        left, top, width, height = layout.panel(position)
        panel = picture[top : top + height, left : left + width].astype(int)
        coloured.append([has_colour(panel, (51.2 - y) * scale, row, ORANGE, reach=30) for y in (20, -20)])
    assert coloured == [[False, False], [False, True]]


def test_labels_are_drawn_beside_small_boxes(frame, ego_to_global):
    box = boxes_at([(45, 0, 1, 0.4, 0.4, 0.4, 0, 0, 0)]).transform(ego_to_global)
    bare, labelled = (camera_panel(render_frame(frame, box, labels=labels), "CAM_FRONT") for labels in (False, True))
    plate = (np.abs(labelled - ORANGE).max(axis=-1) < 60).sum() - (np.abs(bare - ORANGE).max(axis=-1) < 60).sum()
    assert plate > 100


@pytest.mark.parametrize(
    ("attribute", "scores", "label"), [(-1, True, "car .80"), (6, True, "car .80 parked"), (6, False, "car parked")]
)
def test_a_label_names_class_score_and_attribute(attribute, scores, label):
    box = Boxes.from_ego(np.zeros((1, 9)), np.array([CAR]), np.array([0.8]), np.array([attribute]))
    assert box_label(box, 0, scores=scores) == label


def test_colours_of_the_other_palette_are_used_and_distinct(frame, ego_to_global):
    box = boxes_at([(30, 20, 1, 4, 2, 1.6, 0, 0, 0)], PEDESTRIAN).transform(ego_to_global)
    panel = map_panel(render_frame(frame, box, colours=COLOUR_BLIND))
    assert (np.abs(panel - 255 * np.array(COLOUR_BLIND.classes[PEDESTRIAN])).max(axis=-1) < 40).any()
    assert not (np.abs(panel - 255 * np.array(NUSCENES.classes[PEDESTRIAN])).max(axis=-1) < 40).any()
    for colours in (COLOUR_BLIND.classes, COLOUR_BLIND.voxels):
        assert len(set(colours)) == len(colours)
