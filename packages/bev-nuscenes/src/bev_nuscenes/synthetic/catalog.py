"""Which shapes stand in for the plain ones where a world of some variety is wanted, and their nuScenes categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .mesh import Mesh
from .more_people import (
    make_cargo_bicycle,
    make_child,
    make_kick_scooter,
    make_person_with_bag,
    make_person_with_umbrella,
    make_police_officer,
    make_racing_bicycle,
    make_scooter,
    make_wheelchair,
)
from .more_vehicles import (
    make_bendy_section,
    make_crane,
    make_flatbed,
    make_hatchback,
    make_roller,
    make_sedan,
    make_suv,
    make_tanker,
    make_taxi,
    make_van,
)
from .vehicles import Size

OTHERS = "others"  # the kind of what the detection task ignores and Occ3D counts among `others`


@dataclass(frozen=True)
class Shape:
    """A shape with its kind (detection class, or OTHERS), nuScenes category and mean size (width, length, height)."""

    kind: str
    category: str
    size: Size
    make: Callable[..., Mesh]
    weight: float = 1.0  # how often it is drawn beside the others that stand in for a kind
    ridden_height: float | None = None  # of a cycle with its rider, whose maker then takes `rider`
    trailing: Shape | None = None  # what is coupled behind it

    def build(self, size: Size, rng: np.random.Generator, *, ridden: bool) -> Mesh:
        """The mesh of one such object."""
        return self.make(size, rng, rider=ridden) if self.ridden_height else self.make(size, rng)


_BENDY_REAR = Shape("bus", "vehicle.bus.bendy", (2.55, 7.2, 3.2), make_bendy_section)

SHAPES: dict[str, tuple[Shape, ...]] = {
    "car": (
        Shape("car", "vehicle.car", (1.86, 4.75, 1.46), make_sedan, 1.4),
        Shape("car", "vehicle.car", (1.78, 4.05, 1.50), make_hatchback, 1.2),
        Shape("car", "vehicle.car", (1.96, 4.75, 1.78), make_suv, 1.4),
        Shape("car", "vehicle.car", (2.02, 5.15, 2.05), make_van, 0.8),
        Shape("car", "vehicle.car", (1.86, 4.80, 1.62), make_taxi, 0.6),
    ),
    "bus": (Shape("bus", "vehicle.bus.bendy", (2.55, 9.4, 3.2), make_bendy_section, trailing=_BENDY_REAR),),
    "truck": (
        Shape("truck", "vehicle.truck", (2.45, 7.2, 2.7), make_flatbed),
        Shape("truck", "vehicle.truck", (2.50, 7.8, 3.0), make_tanker),
    ),
    "construction_vehicle": (
        Shape("construction_vehicle", "vehicle.construction", (2.55, 7.8, 3.2), make_crane),
        Shape("construction_vehicle", "vehicle.construction", (2.10, 4.8, 2.9), make_roller),
    ),
    "pedestrian": (
        Shape("pedestrian", "human.pedestrian.adult", (0.70, 0.76, 1.74), make_person_with_bag, 2.0),
        Shape("pedestrian", "human.pedestrian.adult", (0.98, 0.98, 2.05), make_person_with_umbrella, 1.2),
        Shape("pedestrian", "human.pedestrian.child", (0.48, 0.52, 1.22), make_child, 1.4),
        Shape("pedestrian", "human.pedestrian.police_officer", (0.70, 0.72, 1.80), make_police_officer, 0.5),
        Shape(OTHERS, "human.pedestrian.wheelchair", (0.68, 1.10, 1.32), make_wheelchair, 0.4),
        Shape(OTHERS, "human.pedestrian.personal_mobility", (0.60, 1.15, 1.82), make_kick_scooter, 0.4),
    ),
    "bicycle": (
        Shape("bicycle", "vehicle.bicycle", (0.50, 1.68, 1.02), make_racing_bicycle, ridden_height=1.62),
        Shape("bicycle", "vehicle.bicycle", (0.68, 2.35, 1.12), make_cargo_bicycle, ridden_height=1.72),
    ),
    "motorcycle": (Shape("motorcycle", "vehicle.motorcycle", (0.72, 1.82, 1.14), make_scooter, ridden_height=1.66),),
}
"""What may stand in for a plain object of each kind."""

KIND_OF_CATEGORY = {shape.category: shape.kind for shapes in SHAPES.values() for shape in shapes}


def draw_shape(kind: str, rng: np.random.Generator) -> Shape | None:
    """A shape that stands in for a kind; None where there is but the plain one."""
    shapes = SHAPES.get(kind, ())
    if not shapes:
        return None
    weights = np.array([shape.weight for shape in shapes])
    return shapes[int(rng.choice(len(shapes), p=weights / weights.sum()))]
