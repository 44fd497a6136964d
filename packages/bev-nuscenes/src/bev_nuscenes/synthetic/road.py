"""The road all scenes happen on: an arc of constant curvature with a fixed cross-section, crossed by another or not.

Road coordinates are (s, d): s metres along the centre line, d metres to its left. Traffic keeps right, so the ego
car and its lanes have negative d.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

LANE_CENTERS = (1.75, 5.25)  # |d| of the two driving lanes of each direction
LANE_EDGE = 7.0
BIKE_LANE_CENTER = 7.85
BIKE_LANE_EDGE = 8.7
PARKING_CENTER = 9.95
PARKING_EDGE = 11.2
SIDEWALK_EDGE = 15.2
VERGE_EDGE = 18.0  # buildings begin behind it
STOP_LINE = 16.6  # metres of a stop line's middle, and
ZEBRA = 13.3  # metres of a zebra crossing's, from the middle of a junction
BAY_LENGTH = 6.5  # distance of the parking bays' marks along the road


class Surface(IntEnum):
    """What the ground is made of at some |d|."""

    DRIVEABLE = 0
    SIDEWALK = 1
    TERRAIN = 2


class Part(IntEnum):
    """Which road a piece of ground belongs to."""

    MAIN = 0
    BRANCH = 1
    JUNCTION = 2


@dataclass(frozen=True)
class Branch:
    """A road across the main one or away from it; its s is 0 where the two centre lines meet."""

    road: Road
    junction: float  # s of the main road where they meet
    side: int = 0  # 1: only to the left of the main road, -1: only to its right, 0: on both sides


@dataclass(frozen=True)
class Road:
    """An arc through `origin` (x, y metres, global frame) where it heads for `heading` (radians).

    `curvature` is in 1/metre, positive when the road turns left, never zero.
    """

    origin: tuple[float, float]
    heading: float
    curvature: float
    crossings: tuple[float, ...] = ()  # s of the zebra crossings' middles
    branch: Branch | None = None

    def to_global(self, s: ArrayLike, d: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global x, y (metres) and road heading (radians) of road coordinates; shapes broadcast."""
        angle = self.heading + self.curvature * np.asarray(s, dtype=np.float64)
        reach = np.asarray(d, dtype=np.float64) - 1.0 / self.curvature
        center_x, center_y = self.center
        return center_x - np.sin(angle) * reach, center_y + np.cos(angle) * reach, angle

    def to_road(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Road coordinates (s, d) of global points; exact inverse of `to_global`, in the dtype of x."""
        center_x, center_y = self.center
        side = np.copysign(1.0, self.curvature)
        to_point_x, to_point_y = x - center_x, y - center_y
        radius = np.sqrt(to_point_x * to_point_x + to_point_y * to_point_y)
        d = 1.0 / self.curvature - side * radius
        cos_h, sin_h = np.cos(self.heading), np.sin(self.heading)
        # The left normal is -side * to_point / radius; it has turned by curvature * s since s = 0.
        along = side * (to_point_x * cos_h + to_point_y * sin_h)
        across = side * (to_point_x * sin_h - to_point_y * cos_h)
        return np.arctan2(along, across) / self.curvature, d

    def surface(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """`Surface` value (uint8) of the ground at global points."""
        return surface_at(self.locate(x, y)[1])

    def locate(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Road coordinates (s, d) of global points on the nearer of the two roads, and which `Part` they are on.

        The parts are None where there is but one road.
        """
        s, d = self.to_road(x, y)
        if self.branch is None:
            return s, d, None
        across_s, across_d = self.branch.road.to_road(x, y)
        exists = np.full(d.shape, True) if self.branch.side == 0 else self.branch.side * d > 0.0
        on_branch = exists & (np.abs(across_d) < np.abs(d))
        junction = exists & (np.maximum(np.abs(d), np.abs(across_d)) < PARKING_EDGE)
        part = np.where(on_branch, np.uint8(Part.BRANCH), np.uint8(Part.MAIN))
        part[junction] = Part.JUNCTION
        return np.where(on_branch, across_s, s), np.where(on_branch, across_d, d), part

    @property
    def center(self) -> tuple[float, float]:
        """Centre of the arc, global x and y in metres."""
        x, y = self.origin
        return x - np.sin(self.heading) / self.curvature, y + np.cos(self.heading) / self.curvature


def surface_at(d: np.ndarray) -> np.ndarray:
    """`Surface` value (uint8) of the ground at lateral positions d (metres, any shape)."""
    distance = np.abs(d)
    surface = np.full(distance.shape, Surface.TERRAIN, dtype=np.uint8)
    surface[distance < SIDEWALK_EDGE] = Surface.SIDEWALK
    surface[distance < PARKING_EDGE] = Surface.DRIVEABLE
    return surface
