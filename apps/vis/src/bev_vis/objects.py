"""The boxes of a whole split as evaluation counts them: within the range of their class, outside bicycle racks.

Legend: M objects of all frames together; frames are places in the split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bev_nuscenes import CLASSES
from bev_nuscenes.geometry import quaternion_to_matrix

from .frame import Boxes
from .geometry import Array
from .source import Source
from .submission import Records, boxes_of_sample

CLASS_RANGE_M = dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0)
CLASS_RANGE_M |= dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0)
CLASS_RANGE_M |= dict.fromkeys(("traffic_cone", "barrier"), 30.0)
"""Distances from the vehicle up to which the official evaluation (detection_cvpr_2019) counts the classes."""


class Rack(NamedTuple):
    """A place for bicycles: those in it are neither wanted nor held against a prediction."""

    center: Array  # (3,) global
    size: Array  # (3,) length, width, height
    rotation: Array  # (3,3)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """M boxes of many frames, in the global frame; metres, radians, metres per second."""

    frame: NDArray[np.intp]  # (M,) place in the split
    center: Array  # (M,2)
    size: Array  # (M,3) length, width, height
    yaw: Array  # (M,)
    velocity: Array  # (M,2) NaN where unknown
    label: NDArray[np.int64]  # (M,)
    score: Array  # (M,)
    attribute: NDArray[np.int64]  # (M,) -1 for none
    distance: Array  # (M,) from the vehicle, in the plane
    visibility: NDArray[np.int64]  # (M,) 1 (0-40 %) to 4 (80-100 %), 0 where unknown

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "Objects":
        """The objects of a mask (M,) or of indices, in their order."""
        return Objects(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def read_objects(source: Source, results: dict[str, Records]) -> tuple[Objects, Objects]:
    """What a submission predicts for a split, and what is true. Raises ValueError for a sample that is not in it."""
    racks = _bicycle_racks(source)
    pairs = [
        objects_of_frame(source, boxes_of_sample(results, token), number, racks.get(token, ()))
        for number, token in enumerate(source.tokens)
    ]
    predicted, true = zip(*pairs, strict=True)
    return _joined(predicted), _joined(true)


def objects_of_frame(source: Source, found: Boxes, number: int, racks: Sequence[Rack] = ()) -> tuple[Objects, Objects]:
    """Of predicted boxes (global) and of the true boxes of a frame, those that count."""
    true = source.frame(number, lidar=False).truth
    rows = source.index.box_rows(int(source.index.split_positions(source.split)[number]))
    visibility = np.asarray(source.index.boxes.visibility[rows], np.int64)
    origin = source.lidar_origin(number)
    predicted_objects = _objects(found, number, origin, np.zeros(len(found), np.int64))
    true_objects = _objects(true, number, origin, visibility)
    return (
        predicted_objects[_counted(predicted_objects, found, racks)],
        true_objects[_counted(true_objects, true, racks)],
    )


def _objects(boxes: Boxes, frame: int, origin: Array, visibility: NDArray[np.int64]) -> Objects:
    return Objects(
        frame=np.full(len(boxes), frame, np.intp),
        center=boxes.center[:, :2],
        size=boxes.size,
        yaw=np.arctan2(boxes.rotation[:, 1, 0], boxes.rotation[:, 0, 0]),
        velocity=boxes.velocity[:, :2],
        label=boxes.label,
        score=boxes.score,
        attribute=boxes.attribute,
        distance=np.linalg.norm(boxes.center[:, :2] - origin[:2], axis=1),
        visibility=visibility,
    )


def _joined(parts: Sequence[Objects]) -> Objects:
    return Objects(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Objects)})


def _counted(objects: Objects, boxes: Boxes, racks: Sequence[Rack]) -> NDArray[np.bool_]:
    limits = np.array([CLASS_RANGE_M[name] for name in CLASSES])
    counted = objects.distance < limits[objects.label]
    for center, size, rotation in racks:
        inside = (np.abs((boxes.center - center) @ rotation) <= size / 2).all(axis=1)
        counted &= ~(inside & np.isin(objects.label, [CLASSES.index("bicycle"), CLASSES.index("motorcycle")]))
    return counted


def _bicycle_racks(source: Source) -> dict[str, list[Rack]]:
    """The racks by sample token."""
    folder = Path(str(source.index.root)) / source.index.info.version
    if not (folder / "sample_annotation.json").is_file():
        return {}
    categories = {record["token"] for record in _table(folder, "category") if "bicycle_rack" in record["name"]}
    instances = {record["token"] for record in _table(folder, "instance") if record["category_token"] in categories}
    racks: dict[str, list[Rack]] = {}
    for record in _table(folder, "sample_annotation") if instances else ():
        if record["instance_token"] in instances:
            width, length, height = record["size"]
            rotation = quaternion_to_matrix(np.array([record["rotation"]]))[0]
            rack = Rack(np.array(record["translation"]), np.array([length, width, height]), rotation)
            racks.setdefault(record["sample_token"], []).append(rack)
    return racks


def _table(folder: Path, name: str) -> Iterator[dict]:
    yield from json.loads((folder / f"{name}.json").read_bytes())
