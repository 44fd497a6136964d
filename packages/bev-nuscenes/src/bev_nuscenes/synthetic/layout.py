"""What is in a scene and how it moves: the road, annotated actors on collision-free paths, and scenery beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from . import road as cross_section
from .actors import MEAN_SIZES, Actor, Candidate, Motion, Path, Population, fill
from .mesh import Mesh
from .road import Road
from .routes import Signal
from .scenery import make_building, make_bush, make_hedge, make_lamp_post, make_sign, make_tree

MARGIN_BEHIND, MARGIN_AHEAD = 42.0, 50.0  # how far actors are placed beyond the ends of the ego car's path, metres
SCENERY_MARGIN = 110.0


@dataclass(frozen=True)
class Prop:
    """Scenery: a mesh at a fixed place, global x, y and yaw; `kind` is 'manmade' or 'vegetation'."""

    kind: str
    mesh: Mesh
    x: float
    y: float
    yaw: float
    lamp: bool = False  # a street lamp
    signal: Signal | None = None  # a traffic light, whose lamps are the last three faces of its mesh


@dataclass(frozen=True)
class Scene:
    """Everything a scene contains; times are seconds since its first key frame."""

    road: Road
    ego: Motion
    actors: tuple[Actor, ...]
    props: tuple[Prop, ...]
    extent: float  # metres; the scene lies in the square from (0, 0) to (extent, extent) of the global frame
    about: str = ""  # what happens, where that is more than driving along the road


class Stretch(Protocol):
    """A piece of a road to put things on and beside, from s = -MARGIN_BEHIND to MARGIN_AHEAD beyond its length."""

    road: Road
    duration: float  # seconds
    length: float  # metres


Group = Callable[[Stretch, np.random.Generator], Iterator[Candidate]]
"""Proposes objects of one sort."""


def make_scene(
    rng: np.random.Generator, duration: float, density: float = 1.0, *, variety: float = 0.0, dark: bool = False
) -> Scene:
    """A scene of `duration` seconds; `density` scales the number of actors, 1 gives about 35 within 40 m.

    `variety` is the part of the actors that have other than the plain shapes; in the dark the street lamps are lit.
    """
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
    actors = _populate(Population(road, ego, duration, length), density, variety, rng)
    return Scene(road, ego, tuple(actors), tuple(make_props(road, length, rng, dark)), float(extent))


def _populate(population: Population, density: float, variety: float, rng: np.random.Generator) -> list[Actor]:
    """Fill the scene: work sites and crossings first, then traffic, parked vehicles, people and loose objects."""
    groups: list[Group | Callable[[Population, np.random.Generator], Iterator[Candidate]]]
    groups = [
        work_sites,
        _traffic,
        _cyclists,
        parked,
        _crossing_people,
        sidewalk_people,
        standing_cycles,
        loose_objects,
    ]
    fill(population, groups, density, variety, rng)
    while density > 1.0:
        density -= 1.0
        fill(population, CROWDING, density, variety, rng)
    return population.actors


def work_sites(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Closed stretches beside the lanes, at least one on each side, with barriers, cones, machines and workers."""
    start, side, required = rng.uniform(6.0, 14.0), rng.choice([-1.0, 1.0]), 2
    while required > 0 or start < stretch.length + MARGIN_AHEAD - 20.0:
        end = start + rng.uniform(17.0, 24.0)
        yield from _work_site(start, end, side, rng)
        start, side, required = end + rng.uniform(8.0, 20.0), -side, required - 1


def _work_site(start: float, end: float, side: float, rng: np.random.Generator) -> Iterator[Candidate]:
    edge = side * (cross_section.LANE_EDGE + 0.8)
    for s in np.arange(start + 4.0, end, 2.9):
        yield Candidate("barrier", Path(s, edge, yaw=np.pi / 2 + rng.normal(0.0, 0.04)), optional=False)
    for step, s in enumerate(np.arange(start, start + 4.0, 1.4)):
        yield Candidate("traffic_cone", Path(s - 1.5, edge + side * (2.6 - 0.9 * step)), optional=False)
    for s in np.arange(end + 0.5, end + 6.0, 1.7):
        yield Candidate("traffic_cone", Path(s, edge + side * rng.uniform(0.0, 0.4)), optional=False)
    for s in (start + 8.0, start + 17.0):
        yaw = rng.choice([0.0, np.pi]) + rng.normal(0.0, 0.12)
        machine = Path(s, side * (cross_section.PARKING_CENTER + 0.3), yaw=yaw)
        yield Candidate("construction_vehicle", machine, "vehicle.stopped", optional=False)
    for _ in range(3):
        worker = Path(rng.uniform(start + 2, end), side * rng.uniform(8.8, 11.5), yaw=rng.uniform(-np.pi, np.pi))
        yield Candidate("pedestrian", worker, "pedestrian.standing", worker=True)


_TRAFFIC_DECK = ("car",) * 6 + ("truck", "bus", "semi", "motorcycle")
_PARKED_DECK = ("car",) * 5 + ("truck", "truck", "bus", "trailer", "trailer", "motorcycle")


def _traffic(population: Population, rng: np.random.Generator) -> Iterator[Candidate]:
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
                yield Candidate(part, path, "cycle.with_rider" if ridden else attribute)
            s += MEAN_SIZES["trailer" if kind == "semi" else kind][1] + rng.uniform(12.0, 34.0)


def _cyclists(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Riders in the bicycle lanes."""
    for side in (-1.0, 1.0):
        speed = -side * rng.uniform(3.0, 6.0)
        s = -MARGIN_BEHIND + rng.uniform(0.0, 15.0)
        while s < stretch.length + MARGIN_AHEAD:
            kind = "bicycle" if rng.random() < 0.7 else "motorcycle"
            d = side * cross_section.BIKE_LANE_CENTER + rng.normal(0.0, 0.12)
            yield Candidate(kind, Path(s, d, speed, yaw=np.pi if side > 0 else 0.0), "cycle.with_rider")
            s += rng.uniform(14.0, 30.0)


def parked(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Vehicles along both kerbs."""
    deck = _deal(_PARKED_DECK, rng)
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 6.0)
        while s < stretch.length + MARGIN_AHEAD:
            kind = next(deck)
            yaw = (np.pi if side > 0 else 0.0) + rng.normal(0.0, 0.03)
            if rng.random() < 0.12:
                yaw += np.pi
            length = MEAN_SIZES[kind][1]
            if rng.random() < 0.5:
                path = Path(s + length / 2, side * (cross_section.PARKING_CENTER + rng.normal(0.0, 0.12)), yaw=yaw)
                yield Candidate(kind, path, "cycle.without_rider" if kind == "motorcycle" else "vehicle.parked")
            s += length + rng.uniform(0.9, 2.4)


def rows_of_parked(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Bumper to bumper along both kerbs, wherever there is still room."""
    deck = _deal(_PARKED_DECK, rng)
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 3.0)
        while s < stretch.length + MARGIN_AHEAD:
            kind = next(deck)
            yaw = (np.pi if side > 0 else 0.0) + rng.normal(0.0, 0.02)
            path = Path(
                s + MEAN_SIZES[kind][1] / 2, side * (cross_section.PARKING_CENTER + rng.normal(0.0, 0.08)), yaw=yaw
            )
            yield Candidate(kind, path, "cycle.without_rider" if kind == "motorcycle" else "vehicle.parked")
            s += rng.uniform(2.0, 3.0)


def crowds(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """People who stand together, some before others."""
    for side in (-1.0, 1.0):
        for s in np.arange(-MARGIN_BEHIND + rng.uniform(0.0, 10.0), stretch.length + MARGIN_AHEAD, 14.0):
            facing = rng.uniform(-np.pi, np.pi)
            for _ in range(rng.integers(3, 7)):
                place = s + rng.normal(0.0, 1.2), side * float(np.clip(rng.normal(13.4, 0.6), 12.3, 14.7))
                yield Candidate("pedestrian", Path(*place, yaw=facing + rng.normal(0.0, 0.8)), "pedestrian.standing")


def _crossing_people(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """People on the zebra crossings."""
    for crossing in stretch.road.crossings:
        for _ in range(6):
            across = walk_across(stretch.duration, rng)
            path = replace(across, s=crossing + rng.uniform(-1.6, 1.6))
            yield Candidate("pedestrian", path, "pedestrian.moving")


def walk_across(duration: float, rng: np.random.Generator) -> Path:
    """A way across the road at s = 0 that stays between the sidewalks' far edges for `duration` seconds."""
    reach = cross_section.SIDEWALK_EDGE - 1.0
    speed = min(rng.uniform(0.9, 1.6), 2 * reach / max(duration, 1.0))
    direction = rng.choice([-1.0, 1.0])
    latest = max(-reach, reach - speed * duration)  # rounding may put it before the earliest
    start = direction * rng.uniform(-reach, latest)
    return Path(0.0, start, 0.0, direction * speed, direction * np.pi / 2)


def sidewalk_people(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Walking and standing people on both sidewalks."""
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 5.0)
        while s < stretch.length + MARGIN_AHEAD:
            d = side * rng.uniform(12.4, 14.6)
            if rng.random() < 0.7:
                speed = rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.7)
                yield Candidate("pedestrian", Path(s, d, speed, yaw=0.0 if speed > 0 else np.pi), "pedestrian.moving")
            else:
                yield Candidate("pedestrian", Path(s, d, yaw=rng.uniform(-np.pi, np.pi)), "pedestrian.standing")
            s += rng.uniform(7.0, 18.0)


def standing_cycles(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Bicycles and motorcycles left at the kerb, across it or along it."""
    for side in (-1.0, 1.0):
        s = -MARGIN_BEHIND + rng.uniform(0.0, 8.0)
        while s < stretch.length + MARGIN_AHEAD:
            kind = "bicycle" if rng.random() < 0.75 else "motorcycle"
            yaw = rng.choice([0.0, np.pi / 2, -np.pi / 2, np.pi]) + rng.normal(0.0, 0.15)
            yield Candidate(kind, Path(s, side * rng.uniform(12.2, 13.2), yaw=yaw), "cycle.without_rider")
            s += rng.uniform(12.0, 26.0)


def loose_objects(stretch: Stretch, rng: np.random.Generator) -> Iterator[Candidate]:
    """Single cones and barriers along the kerbs."""
    for side in (-1.0, 1.0):
        for s in np.arange(-MARGIN_BEHIND, stretch.length + MARGIN_AHEAD, 9.0):
            place = s + rng.uniform(0.0, 7.0)
            if rng.random() < 0.55:
                yield Candidate("traffic_cone", Path(place, side * rng.uniform(8.2, 11.3)))
            elif rng.random() < 0.5:
                yield Candidate(
                    "barrier", Path(place, side * rng.uniform(12.3, 12.7), yaw=np.pi / 2 + rng.normal(0.0, 0.1))
                )


CROWDING: tuple[Group, ...] = (rows_of_parked, sidewalk_people, crowds, standing_cycles)
"""What every unit of density beyond the first adds."""


def _deal(deck: tuple[str, ...], rng: np.random.Generator) -> Iterator[str]:
    """Kinds in the proportions of the deck, reshuffled whenever it is used up, so that none stays away for long."""
    while True:
        yield from (str(kind) for kind in rng.permutation(deck))


def make_props(road: Road, length: float, rng: np.random.Generator, dark: bool) -> Iterator[Prop]:
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
            lamp = place("manmade", make_lamp_post(lit=dark), s, side * (cross_section.PARKING_EDGE + 0.6), inward)
            yield replace(lamp, lamp=True)
        for s in np.arange(first + rng.uniform(0.0, 40.0), last, 45.0):
            facing = np.pi if side < 0 else 0.0
            yield place("manmade", make_sign(rng), s, side * (cross_section.PARKING_EDGE + 0.65), facing)
