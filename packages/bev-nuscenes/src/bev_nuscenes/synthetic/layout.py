"""What is in a scene and how it moves: the road, annotated actors on collision-free paths, and scenery beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import road as cross_section
from .mesh import Mesh
from .road import Road
from .scenery import make_building, make_bush, make_hedge, make_lamp_post, make_sign, make_tree
from .small_objects import make_barrier, make_bicycle, make_motorcycle, make_pedestrian, make_traffic_cone
from .vehicles import Size, make_bus, make_car, make_construction_vehicle, make_trailer, make_truck

EGO_SIZE: Size = (1.9, 4.2, 1.7)
EGO_CENTER_AHEAD = 1.3  # the car's middle ahead of the ego frame's origin, metres
MARGIN_BEHIND, MARGIN_AHEAD = 42.0, 50.0  # how far actors are placed beyond the ends of the ego car's path, metres
SCENERY_MARGIN = 110.0

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


@dataclass(frozen=True)
class Actor:
    """An annotated object. `attribute` is a nuScenes attribute name or None."""

    kind: str
    category: str
    size: Size
    path: Path
    attribute: str | None
    mesh: Mesh


@dataclass(frozen=True)
class Prop:
    """Scenery: a mesh at a fixed place, global x, y and yaw; `kind` is 'manmade' or 'vegetation'."""

    kind: str
    mesh: Mesh
    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """Everything a scene contains; times are seconds since its first key frame."""

    road: Road
    ego: Path
    actors: tuple[Actor, ...]
    props: tuple[Prop, ...]
    extent: float  # metres; the scene lies in the square from (0, 0) to (extent, extent) of the global frame


def make_scene(rng: np.random.Generator, duration: float, density: float = 1.0) -> Scene:
    """A scene of `duration` seconds; `density` scales the number of actors, 1 gives about 35 within 40 m."""
    speed = rng.uniform(4.0, 12.0)
    length = speed * duration
    tightest = max(180.0, (length + 2 * SCENERY_MARGIN) / 2.5)  # the arc must not close
    curvature = rng.choice([-1.0, 1.0]) / rng.uniform(tightest, tightest + 700.0)
    crossings = (rng.uniform(0.25, 0.75) * length + 12.0,)
    heading = rng.uniform(-np.pi, np.pi)
    extent = 10.0 * np.ceil(0.1 * length + 24.0)
    origin = float(0.5 * (extent - length * np.cos(heading))), float(0.5 * (extent - length * np.sin(heading)))
    road = Road(origin, heading, curvature, crossings)
    ego = Path(0.0, -cross_section.LANE_CENTERS[rng.integers(2)], speed)
    actors = _populate(_Population(road, ego, duration), density, rng)
    return Scene(road, ego, tuple(actors), tuple(_make_props(road, length, rng)), float(extent))


class _Population:
    """Accepts candidate paths that keep clear of everything accepted before, ego car first."""

    STEP = 0.1  # seconds between collision checks
    CLEARANCE = 0.2  # metres kept free on every side

    def __init__(self, road: Road, ego: Path, duration: float) -> None:
        self.road, self.ego, self.duration = road, ego, duration
        self.length = ego.s_rate * duration
        self._times = np.arange(-0.2, duration + 0.2, self.STEP)
        ahead = Path(ego.s + EGO_CENTER_AHEAD, ego.d, ego.s_rate)
        self._boxes = [self._swept(ahead, EGO_SIZE)]
        self.actors: list[Actor] = []

    def accept(self, path: Path, size: Size) -> bool:
        """Whether a box on this path never touches another; if so its room is taken."""
        swept = self._swept(path, size)
        if any(_overlap(swept, other) for other in self._boxes):
            return False
        self._boxes.append(swept)
        return True

    def _swept(self, path: Path, size: Size) -> np.ndarray:
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


def _populate(population: _Population, density: float, rng: np.random.Generator) -> list[Actor]:
    """Fill the scene: work sites and crossings first, then traffic, parked vehicles, people and loose objects."""
    groups: list[Callable[[_Population, np.random.Generator], Iterator[_Candidate]]]
    groups = [
        _work_sites,
        _traffic,
        _cyclists,
        _parked,
        _crossing_people,
        _sidewalk_people,
        _standing_cycles,
        _loose_objects,
    ]
    for group in groups:
        for candidate in group(population, rng):
            if candidate.optional and rng.random() > density:
                continue
            size = _draw_size(candidate, rng)
            if population.accept(candidate.path, size):
                population.actors.append(_make_actor(candidate, size, rng))
    return population.actors


@dataclass(frozen=True)
class _Candidate:
    kind: str
    path: Path
    attribute: str | None = None
    worker: bool = False
    optional: bool = True  # dropped first when a thinner scene is wanted


def _draw_size(candidate: _Candidate, rng: np.random.Generator) -> Size:
    width, length, height = MEAN_SIZES[candidate.kind]
    if candidate.kind == "truck" and rng.random() < 0.35:
        width, length, height = 1.95, 5.4, 1.95  # a pickup
    if candidate.attribute == "cycle.with_rider":
        height = RIDDEN_HEIGHT
    spread = rng.normal(0.0, 0.045, 3).clip(-0.1, 0.1)
    return width * (1 + 0.6 * spread[0]), length * (1 + spread[1]), height * (1 + spread[2])


def _make_actor(candidate: _Candidate, size: Size, rng: np.random.Generator) -> Actor:
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


def _work_sites(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Closed stretches beside the lanes, at least one on each side, with barriers, cones, machines and workers."""
    start, side, required = rng.uniform(6.0, 14.0), rng.choice([-1.0, 1.0]), 2
    while required > 0 or start < population.length + MARGIN_AHEAD - 20.0:
        end = start + rng.uniform(17.0, 24.0)
        yield from _work_site(start, end, side, rng)
        start, side, required = end + rng.uniform(8.0, 20.0), -side, required - 1


def _work_site(start: float, end: float, side: float, rng: np.random.Generator) -> Iterator[_Candidate]:
    edge = side * (cross_section.LANE_EDGE + 0.8)
    for s in np.arange(start + 4.0, end, 2.9):
        yield _Candidate("barrier", Path(s, edge, yaw=np.pi / 2 + rng.normal(0.0, 0.04)), optional=False)
    for step, s in enumerate(np.arange(start, start + 4.0, 1.4)):
        yield _Candidate("traffic_cone", Path(s - 1.5, edge + side * (2.6 - 0.9 * step)), optional=False)
    for s in np.arange(end + 0.5, end + 6.0, 1.7):
        yield _Candidate("traffic_cone", Path(s, edge + side * rng.uniform(0.0, 0.4)), optional=False)
    for s in (start + 8.0, start + 17.0):
        yaw = rng.choice([0.0, np.pi]) + rng.normal(0.0, 0.12)
        machine = Path(s, side * (cross_section.PARKING_CENTER + 0.3), yaw=yaw)
        yield _Candidate("construction_vehicle", machine, "vehicle.stopped", optional=False)
    for _ in range(3):
        worker = Path(rng.uniform(start + 2, end), side * rng.uniform(8.8, 11.5), yaw=rng.uniform(-np.pi, np.pi))
        yield _Candidate("pedestrian", worker, "pedestrian.standing", worker=True)


_TRAFFIC_DECK = ("car",) * 6 + ("truck", "bus", "semi", "motorcycle")
_PARKED_DECK = ("car",) * 5 + ("truck", "truck", "bus", "trailer", "trailer", "motorcycle")


def _traffic(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Vehicles in the four driving lanes; all in a lane share one speed, so they never meet."""
    ego, deck = population.ego, _deal(_TRAFFIC_DECK, rng)
    for d in (-1.75, -5.25, 1.75, 5.25):
        direction = -1.0 if d > 0 else 1.0
        if d == ego.d:
            speed = ego.s_rate
        elif rng.random() < 0.2:
            speed = 0.0
        else:
            speed = direction * rng.uniform(4.0, 12.0)
        drift = (speed - ego.s_rate) * population.duration  # how far the lane moves against the ego car
        first = -MARGIN_BEHIND - max(0.0, drift)
        last = MARGIN_AHEAD - min(0.0, drift)
        yaw = 0.0 if direction > 0 else np.pi
        attribute = "vehicle.moving" if speed else "vehicle.stopped"
        s = first + rng.uniform(0.0, 12.0)
        while s < last:
            kind = next(deck)
            for part, offset in (("trailer", -8.6), ("truck", 0.8)) if kind == "semi" else ((kind, 0.0),):
                path = Path(s + offset * direction, d + rng.normal(0.0, 0.15), speed, yaw=yaw + rng.normal(0.0, 0.008))
                ridden = part == "motorcycle"
                yield _Candidate(part, path, "cycle.with_rider" if ridden else attribute)
            s += MEAN_SIZES["trailer" if kind == "semi" else kind][1] + rng.uniform(12.0, 34.0)


def _cyclists(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Riders in the bicycle lanes."""
    for side in (-1.0, 1.0):
        speed = -side * rng.uniform(3.0, 6.0)
        s = -MARGIN_BEHIND + rng.uniform(0.0, 15.0)
        while s < population.length + MARGIN_AHEAD:
            kind = "bicycle" if rng.random() < 0.7 else "motorcycle"
            d = side * cross_section.BIKE_LANE_CENTER + rng.normal(0.0, 0.12)
            yield _Candidate(kind, Path(s, d, speed, yaw=np.pi if side > 0 else 0.0), "cycle.with_rider")
            s += rng.uniform(14.0, 30.0)


def _parked(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Vehicles along both kerbs."""
    deck = _deal(_PARKED_DECK, rng)
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 6.0)
        while s < population.length + MARGIN_AHEAD:
            kind = next(deck)
            yaw = (np.pi if side > 0 else 0.0) + rng.normal(0.0, 0.03)
            if rng.random() < 0.12:
                yaw += np.pi
            length = MEAN_SIZES[kind][1]
            if rng.random() < 0.5:
                path = Path(s + length / 2, side * (cross_section.PARKING_CENTER + rng.normal(0.0, 0.12)), yaw=yaw)
                yield _Candidate(kind, path, "cycle.without_rider" if kind == "motorcycle" else "vehicle.parked")
            s += length + rng.uniform(0.9, 2.4)


def _crossing_people(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """People on the zebra crossing who stay between the sidewalks' far edges as long as the scene lasts."""
    reach = cross_section.SIDEWALK_EDGE - 1.0
    for crossing in population.road.crossings:
        for _ in range(6):
            speed = min(rng.uniform(0.9, 1.6), 2 * reach / max(population.duration, 1.0))
            direction = rng.choice([-1.0, 1.0])
            start = direction * rng.uniform(-reach, reach - speed * population.duration)
            yaw = direction * np.pi / 2
            path = Path(crossing + rng.uniform(-1.6, 1.6), start, 0.0, direction * speed, yaw)
            yield _Candidate("pedestrian", path, "pedestrian.moving")


def _sidewalk_people(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Walking and standing people on both sidewalks."""
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 5.0)
        while s < population.length + MARGIN_AHEAD:
            d = side * rng.uniform(12.4, 14.6)
            if rng.random() < 0.7:
                speed = rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.7)
                yield _Candidate("pedestrian", Path(s, d, speed, yaw=0.0 if speed > 0 else np.pi), "pedestrian.moving")
            else:
                yield _Candidate("pedestrian", Path(s, d, yaw=rng.uniform(-np.pi, np.pi)), "pedestrian.standing")
            s += rng.uniform(7.0, 18.0)


def _standing_cycles(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Bicycles and motorcycles left at the kerb, across it or along it."""
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 8.0)
        while s < population.length + MARGIN_AHEAD:
            kind = "bicycle" if rng.random() < 0.75 else "motorcycle"
            yaw = rng.choice([0.0, np.pi / 2, -np.pi / 2, np.pi]) + rng.normal(0.0, 0.15)
            yield _Candidate(kind, Path(s, side * rng.uniform(12.2, 13.2), yaw=yaw), "cycle.without_rider")
            s += rng.uniform(12.0, 26.0)


def _loose_objects(population: _Population, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Single cones and barriers along the kerbs."""
    for side in (-1.0, 1.0):
        for s in np.arange(-MARGIN_BEHIND, population.length + MARGIN_AHEAD, 9.0):
            place = s + rng.uniform(0.0, 7.0)
            if rng.random() < 0.55:
                yield _Candidate("traffic_cone", Path(place, side * rng.uniform(8.2, 11.3)))
            elif rng.random() < 0.5:
                yield _Candidate(
                    "barrier", Path(place, side * rng.uniform(12.3, 12.7), yaw=np.pi / 2 + rng.normal(0.0, 0.1))
                )


def _deal(deck: tuple[str, ...], rng: np.random.Generator) -> Iterator[str]:
    """Kinds in the proportions of the deck, reshuffled whenever it is used up, so that none stays away for long."""
    while True:
        yield from (str(kind) for kind in rng.permutation(deck))


def _make_props(road: Road, length: float, rng: np.random.Generator) -> Iterator[Prop]:
    """Buildings, trees, hedges, lamps and signs on both sides."""
    first, last = -SCENERY_MARGIN, length + SCENERY_MARGIN

    def place(kind: str, mesh: Mesh, s: float, d: float, yaw: float) -> Prop:
        x, y, heading = road.to_global(s, d)
        return Prop(kind, mesh, float(x), float(y), float(heading + yaw))

    for side in (-1.0, 1.0):
        inward = -side * np.pi / 2
        s = first
        while s < last:
            width, depth, height = rng.uniform(9.0, 24.0), rng.uniform(8.0, 13.0), rng.uniform(5.5, 19.0)
            if rng.random() < 0.8:
                building = make_building(width, depth, height, rng)
                setback = cross_section.VERGE_EDGE + rng.uniform(0.8, 6.0)
                yield place("manmade", building, s + width / 2, side * (setback + depth / 2), inward)
            else:
                for offset in np.arange(2.0, width, 5.0):
                    yield place(
                        "vegetation", make_tree(rng.uniform(6, 11), rng), s + offset, side * rng.uniform(20, 30), 0.0
                    )
            s += width + rng.uniform(0.5, 6.0)
        s = first + rng.uniform(0.0, 10.0)
        while s < last:
            yield place(
                "vegetation",
                make_tree(rng.uniform(5.0, 8.5), rng),
                s,
                side * rng.uniform(15.9, 17.2),
                rng.uniform(0, 6.28),
            )
            s += rng.uniform(9.0, 19.0)
        s = first + rng.uniform(0.0, 10.0)
        while s < last:
            extent = rng.uniform(3.0, 8.0)
            if rng.random() < 0.5:
                yield place("vegetation", make_hedge(extent, rng.uniform(0.6, 1.1), rng), s, side * 17.6, 0.0)
            else:
                yield place("vegetation", make_bush(rng.uniform(0.5, 0.9), rng), s, side * rng.uniform(15.9, 17.0), 0.0)
            s += extent + rng.uniform(3.0, 12.0)
        for s in np.arange(first + rng.uniform(0.0, 25.0), last, 27.0):
            yield place("manmade", make_lamp_post(), s, side * (cross_section.PARKING_EDGE + 0.6), inward)
        for s in np.arange(first + rng.uniform(0.0, 40.0), last, 45.0):
            facing = np.pi if side < 0 else 0.0
            yield place("manmade", make_sign(rng), s, side * (cross_section.PARKING_EDGE + 0.65), facing)
