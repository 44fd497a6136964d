"""Light that lamps throw at dusk and at night: street lamps and headlights, as a map of the ground, and lit windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import SceneGeometry
from .textures import Texture

REACH = 72.0  # metres from the car to the edge of the map
CELL = 0.75  # metres; the light between cells is interpolated
STREET_LAMP_AT, STREET_LAMP_HEIGHT = 1.55, 7.0  # metres: how far the lamp hangs before its post, how high
STREET_LIGHT = np.array([0.62, 0.47, 0.27])  # right below the lamp
BRIGHTEST = 0.8  # what many lamps together come near to
HEADLIGHT = np.array([0.55, 0.54, 0.48])  # where the beam is brightest
WINDOW_LIGHT = np.array([1.0, 0.82, 0.50])
LIT_WINDOWS = 0.35  # part of the windows
_DRIVES = ("vehicle.moving", "vehicle.stopped", "cycle.with_rider")
_HEADLIGHT_KINDS = ("car", "truck", "bus", "motorcycle")


@dataclass(frozen=True)
class LampLight:
    """Light on level ground around the car, by channel; `at` reads it anywhere."""

    lower: np.ndarray  # (2,) global x and y of the first cell's centre, metres
    light: np.ndarray  # (3, n, n) float32, axes x and y

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(3, ...) light at global points, interpolated; what lies beyond the map has that of its edge."""
        last = self.light.shape[1] - 1.001
        column, row = (
            np.clip((place - np.float32(low)) * np.float32(1 / CELL), 0.0, last).astype(np.float32)
            for place, low in zip((x, y), self.lower, strict=True)
        )
        i, j = column.astype(np.int32), row.astype(np.int32)
        a, b = column - i, row - j
        place = i * self.light.shape[2] + j
        flat = self.light.reshape(3, -1)
        below = flat[:, place] * (1 - b) + flat[:, place + 1] * b
        above = flat[:, place + self.light.shape[2]] * (1 - b) + flat[:, place + self.light.shape[2] + 1] * b
        return below * (1 - a) + above * a


def make_lamp_light(geometry: SceneGeometry, ego_to_global: np.ndarray, time: float, strength: float) -> LampLight:
    """Light of all lamps within `REACH` of the ego car, its own headlights included; a camera's exposure bounds it."""
    eye = ego_to_global[:2, 3]
    line = np.arange(-REACH, REACH + CELL / 2, CELL)
    x, y = np.meshgrid(eye[0] + line, eye[1] + line, indexing="ij")
    light = np.zeros((3, *x.shape))
    poses = geometry.poses(time)
    near = np.hypot(*(poses[:, :2] - eye).T) < REACH + 20.0
    props = poses[geometry.num_actors :]
    for index in np.flatnonzero([prop.lamp for prop in geometry.scene.props] & near[geometry.num_actors :]):
        light += STREET_LIGHT[:, None, None] * _lamp_pool(x, y, props[index])
    beams = [(ego_to_global[0, 3], ego_to_global[1, 3], np.arctan2(*ego_to_global[[1, 0], 0]), 3.4)]
    for actor, pose, shines in zip(geometry.scene.actors, poses, near, strict=False):
        if shines and actor.kind in _HEADLIGHT_KINDS and actor.attribute in _DRIVES:
            beams.append((*pose, actor.size[1] / 2))
    for beam in beams:
        light += HEADLIGHT[:, None, None] * _beam(x, y, *beam)
    return LampLight(
        np.array([x[0, 0], y[0, 0]]), (strength * BRIGHTEST * light / (BRIGHTEST + light)).astype(np.float32)
    )


def lamp_glow(geometry: SceneGeometry, glow: np.ndarray) -> np.ndarray:
    """(F,) glow of all faces of a dark scene: the lamps of parked vehicles are off."""
    parked = [actor.attribute not in _DRIVES for actor in geometry.scene.actors]
    off = np.append(parked, np.zeros(geometry.num_objects - geometry.num_actors, dtype=bool))
    return np.where(off[geometry.owners], 0.0, glow)


def is_window(textures: np.ndarray) -> np.ndarray:
    """Whether faces of these textures have windows that may be lit."""
    return (textures == Texture.FACADE) | (textures == Texture.BANDS) | (textures == Texture.WINDOW_ROW)


def window_is_lit(face: np.ndarray, texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether the window at texture repeats (u, v) of a face is lit: all of a shop or bus, some of a house."""
    panes = np.where(texture == Texture.FACADE, np.int32(2), np.int32(4))
    column, row = (u * panes).astype(np.int64), (v * 2).astype(np.int64)
    mixed = (face.astype(np.int64) * 73_856_093) ^ (column * 19_349_663) ^ (row * 83_492_791)
    mixed = (mixed ^ (mixed >> 13)) * 1_274_126_177
    return (texture == Texture.WINDOW_ROW) | (((mixed >> 8) & 0xFF) < 255 * LIT_WINDOWS)


def _lamp_pool(x: np.ndarray, y: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Light of a street lamp on level ground, 1 right below it."""
    lamp_x, lamp_y = pose[0] + STREET_LAMP_AT * np.cos(pose[2]), pose[1] + STREET_LAMP_AT * np.sin(pose[2])
    squared = (x - lamp_x) ** 2 + (y - lamp_y) ** 2
    return (1.0 + squared / STREET_LAMP_HEIGHT**2) ** -1.5


def _beam(x: np.ndarray, y: np.ndarray, at_x: float, at_y: float, yaw: float, front: float) -> np.ndarray:
    """Light of a vehicle's dipped headlights, 1 where it is brightest, some metres ahead of the bumper."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead = (x - at_x) * cos + (y - at_y) * sin - front
    left = (y - at_y) * cos - (x - at_x) * sin
    width = 1.0 + 0.32 * np.maximum(ahead, 0.0)
    rise = np.clip(ahead / 4.0, 0.0, 1.0)
    return rise * np.exp(-((left / width) ** 2) - np.maximum(ahead - 6.0, 0.0) / 16.0)
