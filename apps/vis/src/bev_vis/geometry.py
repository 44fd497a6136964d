"""Boxes as corners, and corners as line segments of a picture.

Shapes: M boxes, S segments, P clipping planes. Frames: ego is x forward, y left, z up; a camera is x right, y down,
z along the optical axis. Metres and pixels.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR_M = 0.1
"""Whatever is nearer to a camera than this, or behind it, is not drawn."""

# Signs of the half extents along length, width and height. Corners 0-3 are the front face, 4-7 the back face.
_CORNER_SIGNS = np.array(
    [(1, 1, -1), (1, -1, -1), (1, -1, 1), (1, 1, 1), (-1, 1, -1), (-1, -1, -1), (-1, -1, 1), (-1, 1, 1)], np.float64
)
BOX_EDGES = np.array(
    [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)], np.intp
)
FRONT_FACE = (0, 1, 2, 3)
FOOTPRINT = (0, 1, 5, 4)
"""The four lower corners, in order around the box, the front edge first."""


def box_corners(
    center: Array,  # (M,3)
    size: Array,  # (M,3) length, width, height
    rotation: Array,  # (M,3,3) box axes to the frame of the centre
) -> Array:  # (M,8,3)
    """Corners in the frame of ``center``: 0-3 the front face, 4-7 the back face behind them."""
    local = 0.5 * size[:, None, :] * _CORNER_SIGNS
    return np.einsum("mij,mkj->mki", rotation, local) + center[:, None, :]


def transform_points(points: Array, a_to_b: Array) -> Array:
    """Points (...,3) of frame a in frame b; ``a_to_b`` is (4,4)."""
    return points @ a_to_b[:3, :3].T + a_to_b[:3, 3]


def looking_at(
    eye: Array,  # (3,)
    target: Array,  # (3,)
) -> Array:  # (3,3)
    """From directions of the ego frame to those of a camera at ``eye`` whose x axis is level."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead])


def project_edges(
    corners: Array,  # (M,8,3) in the camera frame
    intrinsics: Array,  # (3,3)
    image_size: tuple[int, int],  # width, height in pixels
    near: float = NEAR_M,
) -> tuple[Array, NDArray[np.intp]]:
    """The visible parts of the boxes' edges.

    Returns the segments (S,2,2) in pixels and the box (S,) each belongs to. An edge that crosses the near plane or
    an image border is cut there, one wholly outside is left out: no coordinate lies outside the picture.
    """
    pixels_h = _homogeneous_pixels(corners, intrinsics)
    ends = pixels_h[:, BOX_EDGES].reshape(-1, 2, 3)
    owner = np.repeat(np.arange(len(corners)), len(BOX_EDGES))
    clipped, kept = clip_segments(ends, view_planes(image_size, near))
    return clipped[..., :2] / clipped[..., 2:], owner[kept]


def project_front_faces(
    corners: Array,  # (M,8,3) in the camera frame
    intrinsics: Array,  # (3,3)
    image_size: tuple[int, int],  # width, height in pixels
    near: float = NEAR_M,
) -> tuple[list[Array], NDArray[np.intp]]:
    """The visible parts of the boxes' front faces: polygons (K,2) in pixels and the box each belongs to."""
    planes = view_planes(image_size, near)
    faces = _homogeneous_pixels(corners, intrinsics)[:, FRONT_FACE]
    clipped = [clip_polygon(face, planes) for face in faces]
    owner = np.array([box for box, face in enumerate(clipped) if len(face)], np.intp)
    return [clipped[box][:, :2] / clipped[box][:, 2:] for box in owner], owner


def view_planes(image_size: tuple[int, int], near: float = NEAR_M) -> Array:
    """The five planes (5,4) that bound what a picture shows, for points (u·z, v·z, z): visible where n·p + d >= 0.

    In these coordinates near plane and image borders alike are planes, so one cut serves all five and the corners
    behind the camera need no case of their own.
    """
    width, height = image_size
    return np.array(
        [(0, 0, 1, -near), (1, 0, 0, 0), (-1, 0, width, 0), (0, 1, 0, 0), (0, -1, height, 0)],
        np.float64,
    )


def clip_segments(
    ends: Array,  # (S,2,3)
    planes: Array,  # (P,4)
) -> tuple[Array, NDArray[np.intp]]:
    """What of each segment lies on the positive side of all planes: ends (S',2,3) and indices (S',) of the input."""
    start, stop = (_signed_distance(ends[:, end], planes) for end in (0, 1))  # (S,P) each
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = start / (start - stop)
    enter = np.where(start < 0, crossing, 0.0).max(axis=1)
    leave = np.where(stop < 0, crossing, 1.0).min(axis=1)
    outside = ((start < 0) & (stop < 0)).any(axis=1)
    kept = np.flatnonzero(~outside & (enter < leave))
    along = np.stack([enter[kept], leave[kept]], axis=1)[..., None]
    first, last = ends[kept, :1], ends[kept, 1:]
    return first + along * (last - first), kept


def clip_polygon(
    points: Array,  # (K,3) in order around a convex polygon
    planes: Array,  # (P,4)
) -> Array:  # (K',3), empty if nothing is left
    """What of a convex polygon lies on the positive side of all planes (Sutherland-Hodgman)."""
    for plane in planes:
        if not len(points):
            break
        points = _clip_polygon_once(points, plane)
    return points


def _clip_polygon_once(points: Array, plane: Array) -> Array:
    distance = _signed_distance(points, plane[None])[:, 0]
    kept: list[Array] = []
    for i in range(len(points)):
        before, here = distance[i - 1], distance[i]
        if (before < 0) != (here < 0):
            kept.append(points[i - 1] + before / (before - here) * (points[i] - points[i - 1]))
        if here >= 0:
            kept.append(points[i])
    return np.array(kept).reshape(-1, 3)


def _signed_distance(points: Array, planes: Array) -> Array:
    return points @ planes[:, :3].T + planes[:, 3]


def _homogeneous_pixels(points_camera: Array, intrinsics: Array) -> Array:
    return points_camera @ intrinsics.T
