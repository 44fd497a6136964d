"""Names and orders: detection classes, cameras, attributes, and the map from annotation categories to classes."""

from __future__ import annotations

__all__ = ["ATTRIBUTES", "CAMERAS", "CLASSES", "LIDAR", "category_to_label"]

CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
"""The ten detection classes; a label is a position in this tuple."""

CAMERAS: tuple[str, ...] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""The six cameras in the order of every tensor that has a camera axis."""

LIDAR = "LIDAR_TOP"

ATTRIBUTES: tuple[str, ...] = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)
"""The eight attributes; an attribute number is a position in this tuple, -1 stands for none."""

_CATEGORY_CLASSES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}


def category_to_label(category: str) -> int:
    """Label of an annotation category such as ``vehicle.bus.rigid``; -1 for categories the detection task ignores."""
    name = _CATEGORY_CLASSES.get(category)
    return -1 if name is None else CLASSES.index(name)
