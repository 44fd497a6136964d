"""Voxels are drawn where they are, in their colours, near ones before far ones."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import (
    FREE,
    OCCUPANCY_CELL,
    OCCUPANCY_CLASSES,
    OCCUPANCY_LOWER,
    OCCUPANCY_SHAPE,
    DataOptions,
    write_prediction,
)
from bev_vis.__main__ import main
from bev_vis.compose_voxels import render_voxels
from bev_vis.page import Layout
from bev_vis.palette import NUSCENES
from bev_vis.source import open_source
from bev_vis.voxels import View, from_above, in_perspective

CAR, VEGETATION = OCCUPANCY_CLASSES.index("car"), OCCUPANCY_CLASSES.index("vegetation")
SIZE = (200, 150)


def cells(*filled):
    """An empty grid with blocks: label, and a slice for each of x, y, z."""
    labels = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
    for label, *place in filled:
        labels[tuple(place)] = label
    return labels


def hue_of(pixel):
    """Which of the classes a shaded pixel has the colour of."""
    colours = np.array(NUSCENES.voxels) / np.linalg.norm(NUSCENES.voxels, axis=1, keepdims=True)
    return int((colours @ (np.asarray(pixel, float) / np.linalg.norm(pixel))).argmax())


def test_from_above_the_uppermost_cell_is_seen():
    labels = cells((VEGETATION, slice(20, 30), 50, 3), (CAR, slice(25, 30), 50, 1), (CAR, 40, 60, 2))
    seen = from_above(labels, NUSCENES)
    there = seen[..., 3] > 0
    assert there.sum() == 11
    assert [hue_of(seen[x, y, :3]) for x, y in ((20, 50), (29, 50), (40, 60))] == [VEGETATION, VEGETATION, CAR]


def test_in_perspective_a_cell_lies_where_it_projects_to():
    place = (150, 130, 5)
    x, y, z = np.array(OCCUPANCY_LOWER) + OCCUPANCY_CELL * (np.array(place) + 0.5)
    labels = cells((CAR, *place))
    bare, filled = (
        in_perspective(c, SIZE, NUSCENES, View((x - 10, y + 2, z), (x, y + 2, z))) for c in (cells(), labels)
    )
    rows, columns = np.nonzero((bare != filled).any(axis=-1))
    focal = SIZE[0] / 2 / np.tan(View().field_of_view / 2)
    np.testing.assert_allclose(columns.mean(), SIZE[0] / 2 + focal * 2 / 10, atol=2)  # to the right: y is left
    np.testing.assert_allclose(rows.mean(), SIZE[1] / 2, atol=2)
    np.testing.assert_allclose(np.ptp(rows) + 1, focal * OCCUPANCY_CELL / 9.8, atol=2)


def test_near_cells_hide_far_ones():
    behind, before = (VEGETATION, 160, slice(80, 120), slice(0, 16)), (CAR, 140, slice(80, 120), slice(0, 16))
    view = View((0.0, 0.0, 2.0), (10.0, 0.0, 2.0))
    middle = SIZE[1] // 2, SIZE[0] // 2
    assert hue_of(in_perspective(cells(behind), SIZE, NUSCENES, view)[middle]) == VEGETATION
    assert hue_of(in_perspective(cells(behind, before), SIZE, NUSCENES, view)[middle]) == CAR


@pytest.mark.parametrize("cameras", [1, 3, 6])
def test_a_page_of_few_cameras_has_room_for_both_views(world, cameras):
    frame = open_source(DataOptions(root=str(world))).frame(0)
    few = replace(frame, cameras=frame.cameras[:cameras])
    picture = render_voxels(few, cells((CAR, slice(60, 140), slice(60, 140), 4)), None)
    layout = Layout(cameras=cameras)
    assert picture.shape[0] == layout.size[1]
    panel = picture[layout.panel(0)[1] :, layout.panel(0)[0] :].astype(int)
    cars = (np.abs(panel - (255, 158, 0)).max(axis=-1) < 80).any(axis=1)
    assert cars[: len(cars) // 2].any()  # from above
    assert cars[2 * len(cars) // 3 :].any()  # from behind


@pytest.mark.parametrize("folder", ["eval/occupancy", "eval", "."])
def test_a_folder_of_predictions_is_drawn(world, tmp_path, folder):
    """Also by the folder of the evaluation and of the run; this world has no true voxels."""
    for token in open_source(DataOptions(root=str(world))).tokens:
        write_prediction(tmp_path / "eval" / "occupancy", token, cells((CAR, slice(60, 140), slice(60, 140), 4)))
    assert main(["render", str(tmp_path / folder), "--data.root", str(world), "--out", "frame.png"]) == 0
    picture = np.asarray(Image.open("frame.png"))
    assert picture.shape[1] < 2400  # one panel: there is no truth to put beside
    assert (np.abs(picture[:, -450:].astype(int) - (255, 158, 0)).max(axis=-1) < 80).sum() > 10_000
