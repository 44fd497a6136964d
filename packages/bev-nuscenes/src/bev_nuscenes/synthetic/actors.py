"""Actors: how large they are, how they move, what they look like; and that none runs into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .catalog import Shape, draw_shape
from .mesh import Mesh
from .road import Road
from .routes import Route
from .small_objects import make_barrier, make_bicycle, make_motorcycle, make_pedestrian, make_traffic_cone
from .vehicles import Size, make_bus, make_car, make_construction_vehicle, make_trailer, make_truck

EGO_SIZE: Size = (1.9, 4.2, 1.7)
EGO_CENTER_AHEAD = 1.3  # the car's middle ahead of the ego frame's origin, metres
STANDING = 0.2  # m/s; slower vehicles are stopped
COUPLING = 0.3  # metres between the sections of an articulated bus; more than the clearance of two boxes

MEAN_SIZES: dict[str, Size] = {  # width, length, height; close to the means of nuScenes
    "car": (1.94, 4.60, 1.72),
    "truck": (2.45, 6.9, 2.85),
    "construction_vehicle": (2.65, 6.2, 3.1),
    "bus": (2.90, 10.8, 3.45),
    "trailer": (2.55, 11.0, 3.75),
    "barrier": (2.40, 0.55, 1.0),
    "motorcycle": (0.78, 2.10, 1.20),
    "bicycle": (0.60, 1.72, 1.10),
    "pedestrian": (0.66, 0.72, 1.74),
    "traffic_cone": (0.42, 0.42, 0.95),
}
RIDDEN_HEIGHT = 1.68  # of a bicycle or motorcycle with its rider

CATEGORIES: dict[str, str] = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}


@dataclass(frozen=True)
class Path:
    """Uniform motion in road coordinates: s, d at time 0 (metres), their rates (m/s) and the yaw against the road."""

    s: float
    d: float
    s_rate: float = 0.0
    d_rate: float = 0.0
    yaw: float = 0.0

    def pose(self, road: Road, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global x, y and yaw at `time` seconds after the first key frame."""
        x, y, heading = road.to_global(self.s + self.s_rate * np.asarray(time), self.d + self.d_rate * np.asarray(time))
        return x, y, heading + self.yaw

    def shifted(self, metres: float) -> Path:
        """The same motion, so many metres ahead of it."""
        return replace(self, s=self.s + metres * float(np.sign(np.cos(self.yaw))))


class Motion(Protocol):
    """Where an object is at any time: a `Path` along the road, or a `Route` across an intersection."""

    def pose(self, road: Road, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global x, y and yaw at `time` seconds after the first key frame."""

    def shifted(self, metres: float) -> Motion:
        """The same motion, so many metres ahead of it."""


@dataclass(frozen=True)
class Actor:
    """An annotated object. `attribute` is a nuScenes attribute name or None."""

    kind: str
    category: str
    size: Size
    path: Motion
    attribute: str | None
    mesh: Mesh

    def attribute_at(self, time: float) -> str | None:
        """The attribute at a time: a moving vehicle that stands still for a while is stopped."""
        waits = isinstance(self.path, Route) and self.attribute == "vehicle.moving"
        return "vehicle.stopped" if waits and self.path.pace.speed(time) < STANDING else self.attribute


@dataclass(frozen=True)
class Candidate:
    kind: str
    path: Motion
    attribute: str | None = None
    worker: bool = False
    optional: bool = True  # dropped first when a thinner scene is wanted


def draw_size(candidate: Candidate, rng: np.random.Generator) -> Size:
    width, length, height = MEAN_SIZES[candidate.kind]
    if candidate.kind == "truck" and rng.random() < 0.35:
        width, length, height = 1.95, 5.4, 1.95  # a pickup
    if candidate.attribute == "cycle.with_rider":
        height = RIDDEN_HEIGHT
    return _vary((width, length, height), 0.045, 0.1, rng)


def _vary(mean: Size, deviation: float, most: float, rng: np.random.Generator) -> Size:
    """A size about the mean; `deviation` and `most` are parts of it, and widths vary less."""
    width, length, height = mean
    spread = rng.normal(0.0, deviation, 3).clip(-most, most)
    return width * (1 + 0.6 * spread[0]), length * (1 + spread[1]), height * (1 + spread[2])


def make_actor(candidate: Candidate, size: Size, rng: np.random.Generator) -> Actor:
    kind, ridden = candidate.kind, candidate.attribute == "cycle.with_rider"
    makers: dict[str, Callable[[], Mesh]] = {
        "car": lambda: make_car(size, rng),
        "truck": lambda: make_truck(size, rng),
        "construction_vehicle": lambda: make_construction_vehicle(size, rng),
        "bus": lambda: make_bus(size, rng),
        "trailer": lambda: make_trailer(size, rng),
        "barrier": lambda: make_barrier(size, rng),
        "motorcycle": lambda: make_motorcycle(size, rng, rider=ridden),
        "bicycle": lambda: make_bicycle(size, rng, rider=ridden),
        "pedestrian": lambda: make_pedestrian(size, rng, worker=candidate.worker),
        "traffic_cone": lambda: make_traffic_cone(size, rng),
    }
    category = "human.pedestrian.construction_worker" if candidate.worker else CATEGORIES[kind]
    return Actor(kind, category, size, candidate.path, candidate.attribute, makers[kind]())


def fill(
    population: Population,
    groups: Iterable[Callable[[Population, np.random.Generator], Iterator[Candidate]]],
    density: float,
    variety: float,
    rng: np.random.Generator,
) -> None:
    """Add what the groups propose and the population accepts: `density` of the optional, `variety` in other shapes."""
    for group in groups:
        for candidate in group(population, rng):
            if candidate.optional and rng.random() > density:
                continue
            shape = None
            if variety and not candidate.worker and rng.random() < variety:
                shape = draw_shape(candidate.kind, rng)
            if shape is not None:
                _add_shape(population, candidate, shape, rng)
                continue
            size = draw_size(candidate, rng)
            if population.accept((candidate.path, size)):
                population.actors.append(make_actor(candidate, size, rng))


def _add_shape(population: Population, candidate: Candidate, shape: Shape, rng: np.random.Generator) -> None:
    """Add an object of another than the plain shape, and what is coupled to it."""
    ridden = candidate.attribute == "cycle.with_rider"
    parts: list[tuple[Motion, Size, Shape]] = []
    path = candidate.path
    for part in (shape, shape.trailing):
        if part is None:
            continue
        width, length, height = part.size
        height = part.ridden_height if ridden and part.ridden_height else height
        size = _vary((width, length, height), 0.03, 0.07, rng)
        if parts:
            path = path.shifted(-0.5 * (parts[0][1][1] + size[1]) - COUPLING)
        parts.append((path, size, part))
    if population.accept(*((path, size) for path, size, _ in parts)):
        for path, size, part in parts:
            mesh = part.build(size, rng, ridden=ridden)
            population.actors.append(Actor(part.kind, part.category, size, path, candidate.attribute, mesh))


class Population:
    """Accepts candidate paths that keep clear of everything accepted before, ego car first."""

    STEP = 0.1  # seconds between collision checks
    CLEARANCE = 0.2  # metres kept free on every side

    def __init__(self, road: Road, ego: Motion, duration: float, length: float) -> None:
        self.road, self.ego, self.duration = road, ego, duration
        self.length = length
        self._times = np.arange(-0.2, duration + 0.2, self.STEP)
        self._boxes = [self._swept(ego.shifted(EGO_CENTER_AHEAD), EGO_SIZE)]
        self.actors: list[Actor] = []

    def accept(self, *parts: tuple[Motion, Size]) -> bool:
        """Whether boxes on these paths, coupled ones together, never touch another; if so their room is taken."""
        swept = [self._swept(path, size) for path, size in parts]
        if any(_overlap(part, other) for part in swept for other in self._boxes):
            return False
        self._boxes += swept
        return True

    def _swept(self, path: Motion, size: Size) -> np.ndarray:
        """(T, 5): x, y, yaw, half length, half width at every checked time."""
        x, y, yaw = path.pose(self.road, self._times)
        half_length, half_width = (0.5 * extent + 0.5 * self.CLEARANCE for extent in (size[1], size[0]))
        return np.column_stack([x, y, yaw, np.full(len(x), half_length), np.full(len(x), half_width)])


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two swept boxes (T, 5) touch at any time, by separating axes."""
    offset = b[:, :2] - a[:, :2]
    reach = np.hypot(a[0, 3], a[0, 4]) + np.hypot(b[0, 3], b[0, 4])
    near = (offset**2).sum(axis=1) < reach * reach
    if not near.any():
        return False
    a, b, offset = a[near], b[near], offset[near]
    apart = np.zeros(len(a), dtype=bool)
    for yaw in (a[:, 2], a[:, 2] + np.pi / 2, b[:, 2], b[:, 2] + np.pi / 2):
        cos, sin = np.cos(yaw), np.sin(yaw)
        extent = sum(
            box[:, 3] * np.abs(np.cos(box[:, 2] - yaw)) + box[:, 4] * np.abs(np.sin(box[:, 2] - yaw)) for box in (a, b)
        )
        apart |= np.abs(offset[:, 0] * cos + offset[:, 1] * sin) > extent
    return bool((~apart).any())
