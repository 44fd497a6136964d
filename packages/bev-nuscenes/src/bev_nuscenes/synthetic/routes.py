"""Motion that is not uniform: along curves of any shape, at changing speeds; and the traffic lights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .road import Road

SPACING = 0.1  # metres between the points of a route
AMBER = 2.0  # seconds
RED_LAMP, AMBER_LAMP, GREEN_LAMP = range(3)


@dataclass(frozen=True)
class Pace:
    """Speeds (m/s) at times (s), linear between them and constant before the first and after the last."""

    times: tuple[float, ...]
    speeds: tuple[float, ...]

    def speed(self, time: float | np.ndarray) -> np.ndarray:
        """Speed at a time, m/s."""
        return np.interp(time, self.times, self.speeds)

    def distance(self, time: float | np.ndarray) -> np.ndarray:
        """Metres from time 0 to `time`, exactly; negative before 0."""
        return self._from_first(np.asarray(time, dtype=np.float64)) - self._from_first(np.zeros(()))

    def _from_first(self, time: np.ndarray) -> np.ndarray:
        knots, speeds = np.array(self.times), np.array(self.speeds)
        done = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (speeds[1:] + speeds[:-1]) / 2)])
        last = np.clip(np.searchsorted(knots, time, side="right") - 1, 0, len(knots) - 1)
        return done[last] + (time - knots[last]) * (speeds[last] + self.speed(time)) / 2


@dataclass(frozen=True, eq=False)
class Route:
    """A curve in the global frame that is driven along at some pace, always looking along it."""

    points: np.ndarray  # (K, 3) x, y (metres) and yaw (radians, without jumps), SPACING metres apart
    start: float  # metres along the curve at time 0
    pace: Pace

    def pose(self, road: Road, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global x, y and yaw at `time` seconds after the first key frame; straight on beyond the curve's ends."""
        place = (self.start + self.pace.distance(time)) / SPACING
        inside = np.clip(place, 0.0, len(self.points) - 1.0)
        x, y, yaw = (np.interp(inside, np.arange(len(self.points)), column) for column in self.points.T)
        beyond = (place - inside) * SPACING
        return x + beyond * np.cos(yaw), y + beyond * np.sin(yaw), yaw

    def shifted(self, metres: float) -> Route:
        """The same motion, so many metres ahead of it."""
        return replace(self, start=self.start + metres)


@dataclass(frozen=True)
class Signal:
    """A traffic light that is green from one time to another, then amber, and red before and after."""

    green_from: float
    green_until: float

    def lamp(self, time: float) -> int:
        """Which lamp is lit, counted from the top: RED_LAMP, AMBER_LAMP or GREEN_LAMP."""
        if self.green_from <= time < self.green_until:
            return GREEN_LAMP
        return AMBER_LAMP if self.green_until <= time < self.green_until + AMBER else RED_LAMP


def lane_points(road: Road, first: float, last: float, d: float) -> np.ndarray:
    """(n, 2) global points along a lane from one s to another, either way."""
    s = np.linspace(first, last, max(2, int(abs(last - first) / (0.5 * SPACING))))
    x, y, _ = road.to_global(s, d)
    return np.stack([x, y], axis=1)


def join_with_turns(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """(K, 3) points of a route along pieces (n, 2), with a smooth turn from each to the next."""
    parts = [pieces[0]]
    for before, after in pairwise(pieces):
        parts += [_turn(before[-1], _direction(before[-2:]), after[0], _direction(after[:2])), after]
    line = np.concatenate(parts)
    far = np.append(True, np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-6)
    line = line[far]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    place = np.arange(0.0, along[-1], SPACING)
    x, y = (np.interp(place, along, column) for column in line.T)
    return np.stack([x, y, np.unwrap(np.arctan2(np.gradient(y), np.gradient(x)))], axis=1)


def _direction(points: np.ndarray) -> np.ndarray:
    step = points[1] - points[0]
    return step / np.linalg.norm(step)


def _turn(start: np.ndarray, leaving: np.ndarray, end: np.ndarray, arriving: np.ndarray) -> np.ndarray:
    """A cubic curve with given ends and directions; nearly an arc for a quarter turn."""
    reach = 0.39 * np.linalg.norm(end - start)
    t = np.linspace(0.0, 1.0, 400)[:, None]
    first, second = start + reach * leaving, end - reach * arriving
    return (1 - t) ** 3 * start + 3 * t * (1 - t) ** 2 * first + 3 * t * t * (1 - t) * second + t**3 * end
