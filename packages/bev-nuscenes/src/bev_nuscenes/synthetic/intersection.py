"""Scenes at an intersection: a second road across the first, traffic that turns, stops and starts, lights, crossings.

The ego car comes along the main road. Whatever has green flows, whatever has red queues; all are candidates that the
population accepts only where they touch nothing at any time, so a turn that would cut another's way is not driven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import road as cross_section
from .actors import EGO_CENTER_AHEAD, EGO_SIZE, MEAN_SIZES, Candidate, Motion, Path, Population, fill
from .layout import (
    CROWDING,
    Group,
    Prop,
    Scene,
    loose_objects,
    make_props,
    parked,
    sidewalk_people,
    standing_cycles,
    walk_across,
    work_sites,
)
from .road import Branch, Road
from .routes import AMBER, Pace, Route, Signal, join_with_turns, lane_points
from .scenery import make_sign, make_traffic_light

ENTRY = 11.5  # metres from the middle of the junction, where turns begin and end
FAR = 400.0  # metres of road that routes have on either side of a junction; the curves stay apart so far
TURNING_SPEED = 4.5  # m/s
BRAKING, STARTING = 2.4, 1.7  # m/s²
HEADWAY = 2.4  # seconds between vehicles of a lane
QUEUE_GAP = 2.2  # metres
_DECK = ("car",) * 7 + ("truck", "bus", "motorcycle")
_MANOEUVRES = ("crosses", "waits, then crosses", "turns left", "turns right")


@dataclass(frozen=True)
class _Arm:
    """One of the three or four roads that meet. `sign` is that of s - middle on the arm."""

    road: Road
    middle: float  # s of the junction's middle on the arm's road
    sign: float
    signal: Signal

    def at(self, distance: float) -> float:
        """The s so many metres from the junction's middle."""
        return self.middle + self.sign * distance

    def inbound(self, lane: float, distance: float) -> np.ndarray:
        """(n, 2) points of a lane towards the junction, up to `distance` from its middle."""
        return lane_points(self.road, self.at(FAR), self.at(distance), self.sign * lane)

    def outbound(self, lane: float, distance: float) -> np.ndarray:
        """(n, 2) points of a lane away from the junction, from `distance` on."""
        return lane_points(self.road, self.at(distance), self.at(FAR), -self.sign * lane)

    def heading_out(self) -> float:
        """Direction in which the arm leaves the junction, radians."""
        heading = self.road.heading + self.road.curvature * self.middle
        return heading + (0.0 if self.sign > 0 else np.pi)


@dataclass(frozen=True)
class OnRoad:
    """A path along another road than the scene's main one."""

    path: Path
    road: Road

    def pose(self, road: Road, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global x, y and yaw at `time` seconds after the first key frame."""
        return self.path.pose(self.road, time)

    def shifted(self, metres: float) -> OnRoad:
        """The same motion, so many metres ahead of it."""
        return replace(self, path=self.path.shifted(metres))


@dataclass(frozen=True)
class _Roadside:
    """A piece of either road for the groups of `layout` to fill; see `layout.Stretch`."""

    road: Road
    duration: float
    length: float


def make_crossing_scene(
    rng: np.random.Generator, duration: float, density: float = 1.0, *, variety: float = 0.0, dark: bool = False
) -> Scene:
    """A scene of `duration` seconds at an intersection; the other arguments are those of `layout.make_scene`."""
    manoeuvre = int(rng.integers(4))
    span = max(duration, 2.0)
    pace, to_junction = _ego_pace(manoeuvre, span, rng)
    side = _branch_side(manoeuvre, rng)
    reach = max(to_junction, float(pace.distance(duration)) - to_junction) + 20.0
    extent = 10.0 * float(np.ceil(0.2 * reach + 24.0))
    road = _roads(rng, to_junction, extent, side)
    arms = _arms(road, manoeuvre == 1, span)
    ego = _ego_route(arms, manoeuvre, pace, to_junction)
    population = Population(road, ego, duration, to_junction + 30.0)
    rounds = min(density, 1.0)
    _fill_roads(population, road, rounds, variety, rng)
    fill(population, [_Traffic(arms, span).candidates, _People(arms).candidates], rounds, variety, rng)
    _fill_roadsides(population, road, density, variety, rng)
    props = [*_scenery(road, to_junction, rng, dark), *_traffic_lights(arms, rng)]
    shape = "intersection" if side == 0 else "T-junction"
    about = f"{shape}, ego car {_MANOEUVRES[manoeuvre]}"
    return Scene(road, ego, tuple(population.actors), tuple(props), extent, about)


def _ego_pace(manoeuvre: int, span: float, rng: np.random.Generator) -> tuple[Pace, float]:
    """The ego car's speeds, and how far the junction's middle is ahead of it at time 0."""
    speed = rng.uniform(6.0, 10.0)
    if manoeuvre == 0:
        return Pace((0.0,), (speed,)), speed * span * rng.uniform(0.35, 0.6) + 8.0
    if manoeuvre == 1:
        cruise = 0.12 * span
        stop = cruise + speed / BRAKING
        start = max(stop + 1.0, 0.55 * span)
        pace = Pace((0.0, cruise, stop, start, start + speed / STARTING), (speed, speed, 0.0, 0.0, speed))
        front = EGO_CENTER_AHEAD + EGO_SIZE[1] / 2
        return pace, float(pace.distance(stop)) + cross_section.STOP_LINE + 0.8 + front
    cruise = 0.15 * span
    slow = cruise + (speed - TURNING_SPEED) / BRAKING
    leave = slow + 22.0 / TURNING_SPEED
    pace = Pace((0.0, cruise, slow, leave, leave + 2.0), (speed, speed, TURNING_SPEED, TURNING_SPEED, speed))
    return pace, float(pace.distance(slow)) + ENTRY + 1.0


def _branch_side(manoeuvre: int, rng: np.random.Generator) -> int:
    """0 where the road crosses, else the side on which it ends in the main one: where the ego car turns to."""
    if rng.random() < 0.6:
        return 0
    return {2: 1, 3: -1}.get(manoeuvre, int(rng.choice([-1, 1])))


def _roads(rng: np.random.Generator, to_junction: float, extent: float, side: int) -> Road:
    """The main road, whose junction is in the middle of the scene's square, and its branch."""
    heading = rng.uniform(-np.pi, np.pi)
    curvature, across = rng.choice([-1.0, 1.0], 2) / rng.uniform(500.0, 1100.0, 2)
    middle = 0.5 * extent, 0.5 * extent
    flat = Road(middle, heading, curvature)
    x, y, turned = flat.to_global(-to_junction, 0.0)
    zebra = cross_section.ZEBRA
    branch = Road(middle, heading + np.pi / 2, float(across), _zebras(side))
    crossings = to_junction - zebra, to_junction + zebra
    return Road((float(x), float(y)), float(turned), float(curvature), crossings, Branch(branch, to_junction, side))


def _zebras(side: int) -> tuple[float, ...]:
    return tuple(sign * cross_section.ZEBRA for sign in (-1.0, 1.0) if side in (0, sign))


def _arms(road: Road, ego_waits: bool, span: float) -> list[_Arm]:
    """The ego car's arm first, then the one opposite, then those of the branch; two opposite ones share a signal."""
    assert road.branch is not None
    ever, pause = 10.0 * span + 100.0, AMBER + 0.5
    change = max(0.55 * span, 3.0) - pause if ego_waits else 0.8 * span  # the ego car starts when its light allows
    early, late = Signal(-ever, change), Signal(change + pause, ever)
    main, across = (late, early) if ego_waits else (early, late)
    arms = [_Arm(road, road.branch.junction, sign, main) for sign in (-1.0, 1.0)]
    signs = [sign for sign in (1.0, -1.0) if road.branch.side in (0, sign)]
    return arms + [_Arm(road.branch.road, 0.0, sign, across) for sign in signs]


def _ego_route(arms: list[_Arm], manoeuvre: int, pace: Pace, to_junction: float) -> Route:
    ways = {_turn(arms[0], arm): arm for arm in arms[1:]}
    points = _drive(arms[0], ways[(0, 0, 1, -1)[manoeuvre]], (1.75, 5.25)[manoeuvre == 3])
    return Route(points, FAR - to_junction, pace)


def _turn(enter: _Arm, leave: _Arm) -> int:
    """1 for a way to the left, -1 to the right, 0 straight on."""
    angle = np.sin(leave.heading_out() - enter.heading_out() - np.pi)
    return int(np.sign(angle)) if abs(angle) > 0.5 else 0


def _drive(enter: _Arm, leave: _Arm, lane: float) -> np.ndarray:
    """(K, 3) points of the way from one arm to another."""
    return join_with_turns([enter.inbound(lane, ENTRY), leave.outbound(lane, ENTRY)])


@dataclass(frozen=True)
class _Traffic:
    """Vehicles on all arms: those that pass while they have green, and the queue of those that do not."""

    arms: list[_Arm]
    span: float

    def candidates(self, population: Population, rng: np.random.Generator) -> Iterator[Candidate]:
        """Vehicles in the order in which they may take their room: who waits and who flows, lane by lane."""
        for enter in self.arms:
            for lane in cross_section.LANE_CENTERS:
                drive = self._flow if enter.signal.green_from <= 0.0 else self._queue
                yield from drive(enter, lane, rng)

    def _flow(self, enter: _Arm, lane: float, rng: np.random.Generator) -> Iterator[Candidate]:
        """Vehicles that reach the junction while their light is green, and those that then come to a red one."""
        time, rank = -5.0 + rng.uniform(0.0, HEADWAY), 0.0
        while time < self.span + 4.0:
            kind, leave = str(rng.choice(_DECK)), self._way(enter, lane, rng)
            speed = rng.uniform(7.0, 8.5)
            if time < enter.signal.green_until:
                pace, start = _passing(_turn(enter, leave) != 0, speed, time)
            else:
                length = MEAN_SIZES[kind][1]
                stand = cross_section.STOP_LINE + 0.8 + rank + length / 2
                rank += length + QUEUE_GAP
                pace, start = _stopping(speed, time, stand)
            yield self._vehicle(kind, _drive(enter, leave, lane), start, pace)
            time += HEADWAY + MEAN_SIZES[kind][1] / speed + rng.exponential(1.6)

    def _queue(self, enter: _Arm, lane: float, rng: np.random.Generator) -> Iterator[Candidate]:
        """Vehicles that stand before a red light and start one after the other when it turns green."""
        rank = 0.0
        for place in range(int(rng.integers(1, 6))):
            kind, leave = str(rng.choice(_DECK)), self._way(enter, lane, rng)
            length = MEAN_SIZES[kind][1]
            stand = cross_section.STOP_LINE + 0.8 + rank + length / 2
            rank += length + QUEUE_GAP
            start, speed = enter.signal.green_from + 0.6 + 1.1 * place, TURNING_SPEED + 0.5
            pace = Pace((0.0, start, start + speed / STARTING), (0.0, 0.0, speed))
            yield self._vehicle(kind, _drive(enter, leave, lane), FAR - stand, pace)

    def _vehicle(self, kind: str, points: np.ndarray, start: float, pace: Pace) -> Candidate:
        attribute = "cycle.with_rider" if kind == "motorcycle" else "vehicle.moving"
        return Candidate(kind, Route(points, start, pace), attribute)

    def _way(self, enter: _Arm, lane: float, rng: np.random.Generator) -> _Arm:
        """Where to: straight on or left from the inner lane, straight on or right from the outer one."""
        allowed = (0, 1) if lane < 3.5 else (0, -1)
        ways = {_turn(enter, leave): leave for leave in self.arms if leave is not enter}
        turns = [turn for turn in allowed if turn in ways] or list(ways)
        straight = 0 in turns and rng.random() < 0.6
        return ways[0 if straight else turns[-1]]


def _passing(turns: bool, speed: float, time: float) -> tuple[Pace, float]:
    """Pace and start of a vehicle that is at ENTRY at `time`; one that turns has slowed down by then."""
    if not turns:
        return Pace((0.0,), (speed,)), FAR - ENTRY - speed * time
    slow = (speed - TURNING_SPEED) / BRAKING
    leave = time + 20.0 / TURNING_SPEED
    times = (time - slow, time, leave, leave + (speed - TURNING_SPEED) / STARTING)
    pace = Pace(times, (speed, TURNING_SPEED, TURNING_SPEED, speed))
    return pace, FAR - ENTRY - float(pace.distance(time))


def _stopping(speed: float, time: float, stand: float) -> tuple[Pace, float]:
    """Pace and start of a vehicle that comes to stand `stand` metres before the middle about `time`."""
    pace = Pace((time - speed / BRAKING, time), (speed, 0.0))
    return pace, FAR - stand - float(pace.distance(time))


@dataclass(frozen=True)
class _People:
    """People on the zebra crossings of the arms whose vehicles stand."""

    arms: list[_Arm]

    def candidates(self, population: Population, rng: np.random.Generator) -> Iterator[Candidate]:
        """Walkers between the far edges of the sidewalks."""
        for arm in self.arms:
            for _ in range(5):
                across = walk_across(population.duration, rng)
                path = replace(across, s=arm.at(cross_section.ZEBRA + rng.uniform(-1.4, 1.4)))
                yield Candidate("pedestrian", OnRoad(path, arm.road), "pedestrian.moving")


def _fill_roads(population: Population, road: Road, density: float, variety: float, rng: np.random.Generator) -> None:
    """Work sites take their room before the traffic does; on the main road only, and clear of the junction."""
    group = _Beside(work_sites, road, road, population).candidates
    fill(population, [group], density, variety, rng)


def _fill_roadsides(
    population: Population, road: Road, density: float, variety: float, rng: np.random.Generator
) -> None:
    """What is parked, stands or walks beside both roads."""
    assert road.branch is not None
    groups: Sequence[Group] = (parked, sidewalk_people, standing_cycles, loose_objects)
    while density > 0.0:
        for which in (road, road.branch.road):
            beside = [_Beside(group, which, road, population).candidates for group in groups]
            fill(population, beside, min(density, 1.0), variety, rng)
        groups, density = CROWDING, density - 1.0


class _Beside:
    """A group of `layout` along one of the two roads, without what would stand on the other."""

    def __init__(self, group: Group, along: Road, main: Road, population: Population) -> None:
        self._group, self._along, self._main = group, along, main
        branch = main.branch
        assert branch is not None
        self._other = branch.road if along is main else main
        # The groups fill s from some 42 m before 0 to 50 m beyond the length: along a branch, both of its sides.
        length, self._shift = (population.length, 0.0) if along is main else (40.0, -24.0)
        self._stretch = _Roadside(along, population.duration, length)

    def candidates(self, population: Population, rng: np.random.Generator) -> Iterator[Candidate]:
        """The group's candidates that keep clear of the other road, or cross it on foot."""
        for candidate in self._group(self._stretch, rng):
            assert isinstance(candidate.path, Path), "what is beside a road keeps to its coordinates"
            path = replace(candidate.path, s=candidate.path.s + self._shift)
            if self._is_clear(path, population.duration, candidate):
                motion: Motion = path if self._along is self._main else OnRoad(path, self._along)
                yield replace(candidate, path=motion)

    def _is_clear(self, path: Path, duration: float, candidate: Candidate) -> bool:
        side = self._main.branch.side
        x, y, _ = path.pose(self._along, np.array([0.0, duration]))
        _, aside = self._other.to_road(x, y)
        if self._along is not self._main and (side * aside < 0).any():
            return False  # the branch does not go on beyond the main road
        if self._along is self._main and (side * self._main.to_road(x, y)[1] < 0).all():
            return True  # the side that has no branch
        walks = candidate.attribute == "pedestrian.moving"
        return walks or bool((np.abs(aside) > cross_section.SIDEWALK_EDGE + 3.5).all())


def _scenery(road: Road, to_junction: float, rng: np.random.Generator, dark: bool) -> Iterator[Prop]:
    """Scenery of both roads, without what would stand on the other road or in another building."""
    assert road.branch is not None
    houses: list[tuple[float, float, float]] = []
    for along, other, length in ((road, road.branch.road, 2.0 * to_junction), (road.branch.road, road, 0.0)):
        for prop in make_props(along, length, rng, dark):
            opposite = road.branch.side * _beside(prop, road).mean() < 0  # of a T-junction's branch
            if opposite and along is not road:
                continue
            if not opposite and np.abs(_beside(prop, other)).min() < cross_section.SIDEWALK_EDGE + 0.6:
                continue
            radius = 0.7 * float(np.linalg.norm(prop.mesh.corners[..., :2], axis=-1).max())
            if radius > 3.0 and prop.kind == "manmade":  # a house
                if along is not road and any(np.hypot(prop.x - x, prop.y - y) <= radius + r for x, y, r in houses):
                    continue
                houses.append((prop.x, prop.y, radius))
            yield prop


def _beside(prop: Prop, road: Road) -> np.ndarray:
    """d on a road of all corners of a prop."""
    cos, sin = np.cos(prop.yaw), np.sin(prop.yaw)
    x, y = prop.mesh.corners[..., 0].ravel(), prop.mesh.corners[..., 1].ravel()
    return road.to_road(prop.x + cos * x - sin * y, prop.y + sin * x + cos * y)[1]


def _traffic_lights(arms: list[_Arm], rng: np.random.Generator) -> Iterator[Prop]:
    """A light at every stop line, or a sign where the road has none."""
    signs = rng.random() < 0.2
    for arm in arms:
        x, y, heading = arm.road.to_global(
            arm.at(cross_section.STOP_LINE), arm.sign * (cross_section.PARKING_EDGE + 0.7)
        )
        yaw = float(heading) + (0.0 if arm.sign > 0 else np.pi)
        mesh = make_sign(rng) if signs else make_traffic_light()
        yield Prop("manmade", mesh, float(x), float(y), yaw, signal=None if signs else arm.signal)
