"""Projection and clipping against cases worked out by hand.

The camera: focal length 100 px, principal point in the middle of a picture of 200 x 100 px. Camera frame: x right,
y down, z ahead; a box "facing ahead" has its front at the greater depth.
"""

import numpy as np
import pytest

from bev_vis.frame import Boxes
from bev_vis.geometry import (
    box_corners,
    clip_polygon,
    clip_segments,
    project_edges,
    project_front_faces,
    transform_points,
    view_planes,
)

SIZE = (200, 100)
INTRINSICS = np.array([[100.0, 0, 100], [0, 100, 50], [0, 0, 1]])
AHEAD = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # box x to camera z, box y to camera -x, box z to camera -y


def corners_at(center, size=(2.0, 2.0, 2.0), rotation=AHEAD):
    return box_corners(np.array([center], float), np.array([size], float), rotation[None])


def test_corners_of_an_upright_box_are_front_first():
    corners = box_corners(np.array([[10.0, 5, 1]]), np.array([[4.0, 2, 1.5]]), np.eye(3)[None])[0]
    assert corners.shape == (8, 3)
    assert (corners[:4, 0] == 12).all()
    assert (corners[4:, 0] == 8).all()
    np.testing.assert_allclose(corners[0], [12, 6, 0.25])  # front, left, low
    np.testing.assert_allclose(corners[6], [8, 4, 1.75])  # back, right, high


def test_a_turned_box_turns_about_its_centre():
    quarter_left = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    corners = box_corners(np.array([[10.0, 5, 1]]), np.array([[4.0, 2, 1.5]]), quarter_left[None])[0]
    assert np.allclose(corners[:4, 1], 7)  # the front now looks along +y
    np.testing.assert_allclose(corners.mean(axis=0), [10, 5, 1])


def test_a_box_in_full_view_keeps_its_twelve_edges():
    segments, owner = project_edges(corners_at((0, 0, 10)), INTRINSICS, SIZE)
    assert segments.shape == (12, 2, 2)
    assert (owner == 0).all()
    # Back face at 9 m: 100 +- 100/9, 50 +- 100/9; front face at 11 m.
    reach = 100 / 9
    assert np.isclose(segments[..., 0].min(), 100 - reach)
    assert np.isclose(segments[..., 1].max(), 50 + reach)
    (face,), _ = project_front_faces(corners_at((0, 0, 10)), INTRINSICS, SIZE)
    np.testing.assert_allclose(np.abs(face - [100, 50]), 100 / 11)


@pytest.mark.parametrize(
    "center",
    [(0, 0, -10), (0, 0, -0.95), (50, 0, 10), (-50, 0, 10), (0, 50, 10), (0, -50, 10), (30, 0, -10)],
    ids=["behind", "just behind", "right", "left", "below", "above", "behind and right"],
)
def test_a_box_out_of_view_leaves_nothing(center):
    segments, owner = project_edges(corners_at(center), INTRINSICS, SIZE)
    assert segments.shape == (0, 2, 2)
    assert len(owner) == 0
    assert project_front_faces(corners_at(center), INTRINSICS, SIZE)[0] == []


def test_a_box_around_the_near_plane_shows_only_what_lies_ahead():
    """From 3 m behind the camera to 5 m ahead, beside it: mirrored corners would land on the other side."""
    corners = corners_at((2, 0, 1), size=(8, 1, 1))
    segments, _ = project_edges(corners, INTRINSICS, SIZE)
    assert len(segments) > 0
    assert (segments[..., 0] > 100).all()  # right of the middle, as the box is
    far_edge = 100 + 100 * 1.5 / 5
    assert np.isclose(segments[..., 0].min(), far_edge)
    # The long edges leave through the right border: at x = 1.5 m that is where z = 1.5 m, so y = 50 +- 100 * 0.5 / 1.5.
    at_border = segments[np.isclose(segments[..., 0], 200)]
    assert any(np.isclose(at_border[:, 1], 50 + 100 * 0.5 / 1.5))


def test_an_edge_through_the_camera_plane_is_cut_at_the_near_plane():
    ends = np.array([[(0.0, 0.0, -1.0), (0.0, 0.0, 3.0)]])
    near = np.array([[0.0, 0, 1, -0.5]])
    clipped, kept = clip_segments(ends, near)
    assert kept.tolist() == [0]
    np.testing.assert_allclose(clipped[0], [(0, 0, 0.5), (0, 0, 3)])


@pytest.mark.parametrize(
    ("center", "axis", "border"),
    [((10, 0, 10), 0, 200), ((-10, 0, 10), 0, 0), ((0, 5, 10), 1, 100), ((0, -5, 10), 1, 0)],
    ids=["right", "left", "bottom", "top"],
)
def test_a_box_on_the_border_is_cut_there(center, axis, border):
    segments, _ = project_edges(corners_at(center), INTRINSICS, SIZE)
    assert 0 < len(segments) < 12
    assert np.isclose(segments[..., axis], border).any()
    assert segments[..., 0].min() >= -1e-9
    assert segments[..., 0].max() <= 200 + 1e-9
    assert segments[..., 1].min() >= -1e-9
    assert segments[..., 1].max() <= 100 + 1e-9


def test_a_box_larger_than_the_view_crosses_it():
    """The camera inside the box: no edge passes through the view, but the front face fills it."""
    corners = corners_at((0, 0, 0), size=(10, 100, 100))
    assert len(project_edges(corners, INTRINSICS, SIZE)[0]) == 0
    (face,), owner = project_front_faces(corners, INTRINSICS, SIZE)
    assert owner.tolist() == [0]
    assert {tuple(point) for point in np.round(face, 6)} == {(0, 0), (200, 0), (200, 100), (0, 100)}


def test_each_segment_names_its_box():
    corners = np.concatenate([corners_at((0, 0, -10)), corners_at((-3, 0, 10)), corners_at((3, 0, 10))])
    segments, owner = project_edges(corners, INTRINSICS, SIZE)
    assert sorted(set(owner)) == [1, 2]
    assert (segments[owner == 1][..., 0] < 100).all()
    assert (segments[owner == 2][..., 0] > 100).all()
    assert project_front_faces(corners, INTRINSICS, SIZE)[1].tolist() == [1, 2]


def test_no_boxes_are_no_segments():
    segments, owner = project_edges(np.zeros((0, 8, 3)), INTRINSICS, SIZE)
    assert segments.shape == (0, 2, 2)
    assert owner.shape == (0,)


def test_random_segments_are_cut_as_a_fine_sampling_says():
    """What is kept of a segment is exactly its points that every plane lets through."""
    rng = np.random.default_rng(0)
    ends = rng.normal(0, 1, (300, 2, 3)) * [300, 150, 3]
    planes = view_planes(SIZE, near=0.1)
    clipped, kept = clip_segments(ends, planes)
    along = np.linspace(0, 1, 2001)[:, None]
    for segment, (first, last) in enumerate(ends):
        samples = first + along * (last - first)
        inside = (samples @ planes[:, :3].T + planes[:, 3] >= 0).all(axis=1)
        position = np.flatnonzero(kept == segment)
        if not len(position):
            assert inside.sum() <= 1
            continue
        length = np.linalg.norm(clipped[position[0], 1] - clipped[position[0], 0]) / np.linalg.norm(last - first)
        assert abs(length - inside.mean()) < 2e-3


def test_a_polygon_is_cut_to_the_area_that_is_left():
    square = np.array([(-1.0, -1, 5), (1, -1, 5), (1, 1, 5), (-1, 1, 5)])
    right_half = np.array([[1.0, 0, 0, 0]])
    assert set(map(tuple, clip_polygon(square, right_half))) == {(0, -1, 5), (1, -1, 5), (1, 1, 5), (0, 1, 5)}
    assert len(clip_polygon(square, np.array([[0.0, 0, 1, -6]]))) == 0


def test_boxes_move_between_frames_with_heading_and_velocity():
    boxes = Boxes.from_ego(np.array([[10.0, 0, 1, 4, 2, 1.5, 0, 3, 0]]), np.array([0]))
    ego_to_global = np.eye(4)
    ego_to_global[:3, :3] = [(0, -1, 0), (1, 0, 0), (0, 0, 1)]
    ego_to_global[:3, 3] = (100, 200, 0)
    moved = boxes.transform(ego_to_global)
    np.testing.assert_allclose(moved.center, [[100, 210, 1]])
    np.testing.assert_allclose(moved.rotation[0, :, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(moved.velocity, [[0, 3, 0]], atol=1e-12)
    np.testing.assert_allclose(moved.corners(), transform_points(boxes.corners(), ego_to_global), atol=1e-12)
    back = moved.transform(np.linalg.inv(ego_to_global))
    np.testing.assert_allclose(back.corners(), boxes.corners(), atol=1e-12)
