"""Detections in the official nuScenes submission format.

Legend: M boxes of one sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import DataError
from .files import atomic_write
from .geometry import matrix_to_quaternion, quaternion_multiply, yaw_to_quaternion
from .taxonomy import CLASSES

__all__ = ["MAX_BOXES", "SubmissionWriter", "attribute_names", "boxes_in_global", "json_in_pieces", "write_submission"]

MAX_BOXES = 500
"""Boxes per sample that the evaluation accepts."""

MOVING_SPEED = 0.2
"""Metres per second above which an object counts as moving."""

_META = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}

# Attribute by class for an object that moves and for one that stands, in the order of CLASSES, as published.
_MOVING = {
    "car": "vehicle.moving",
    "truck": "vehicle.moving",
    "construction_vehicle": "vehicle.moving",
    "bus": "vehicle.moving",
    "trailer": "vehicle.moving",
    "motorcycle": "cycle.with_rider",
    "bicycle": "cycle.with_rider",
    "pedestrian": "pedestrian.moving",
}
_STANDING = {
    "car": "vehicle.parked",
    "truck": "vehicle.parked",
    "construction_vehicle": "vehicle.parked",
    "bus": "vehicle.stopped",
    "trailer": "vehicle.parked",
    "motorcycle": "cycle.without_rider",
    "bicycle": "cycle.without_rider",
    "pedestrian": "pedestrian.standing",
}


class SubmissionWriter:
    """Writes a submission sample by sample, so that memory does not grow with the split; a context manager.

    The file appears under its name only when the ``with`` block ends well and no wanted sample is missing.

        with SubmissionWriter("results.json", index.tokens("val")) as writer:
            writer.add(token, detections.boxes, detections.scores, detections.labels, box_to_global)
    """

    def __init__(self, path: str | Path, tokens: Sequence[str] | None = None) -> None:
        """Prepare a submission.

        Args:
            path: the JSON file.
            tokens: the sample tokens that must all be added, each once; None accepts whatever comes.
        """
        self.path = Path(path)
        self._wanted = None if tokens is None else frozenset(tokens)
        self._written: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> SubmissionWriter:
        head = f'{{"meta": {json.dumps(_META)}, "results": {{'
        self._write = self._stack.enter_context(json_in_pieces(self.path, head, "}}"))
        return self

    def __exit__(self, *error) -> None:
        with self._stack.pop_all() as stack:
            if error[0] is not None:
                stack.__exit__(*error)
                return
            wanted = self._wanted or frozenset()
            missing = wanted - self._written
            if missing:
                raise DataError(
                    f"submission {self.path} lacks {len(missing)} of {len(wanted)} samples, "
                    f"for instance {min(missing)}; predict every sample of the split"
                )

    def add(
        self,
        token: str,
        boxes: ArrayLike,  # (M, 9) in the frame that box_to_global starts from
        scores: ArrayLike,  # (M,)
        labels: ArrayLike,  # (M,) positions in CLASSES
        box_to_global: ArrayLike,  # (4, 4) float64
    ) -> None:
        """Add one sample, with M = 0 too; of more than 500 boxes the best 500 are kept. Tensors may be on any device.

        Raises:
            DataError: a sample that is not wanted or was added already.
            ValueError: shapes that do not fit together, a label that is none, or numbers that are not finite.
        """
        if token in self._written:
            raise DataError(f"sample {token} was already added to the submission; give every sample once")
        if self._wanted is not None and token not in self._wanted:
            raise DataError(f"sample {token} is not in the split this submission is for")
        records = _records(token, *map(_as_array, (boxes, scores, labels, box_to_global)))
        self._write(f"{json.dumps(token)}: {json.dumps(records, allow_nan=False)}")
        self._written.add(token)


def write_submission(
    path: str | Path,
    detections: Iterable[tuple[str, ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    tokens: Sequence[str] | None = None,
) -> None:
    """Write (token, boxes, scores, labels, box_to_global) per sample; see SubmissionWriter for shapes and errors."""
    with SubmissionWriter(path, tokens) as writer:
        for token, boxes, scores, labels, box_to_global in detections:
            writer.add(token, boxes, scores, labels, box_to_global)


@contextmanager
def json_in_pieces(path: Path, head: str, tail: str) -> Iterator[Callable[[str], None]]:
    """Write a JSON file entry by entry, with a comma between two; it appears only when the ``with`` block ends well."""
    with atomic_write(path) as file:
        separator = ""

        def add(entry: str) -> None:
            nonlocal separator
            file.write(f"{separator}\n{entry}")
            separator = ","

        file.write(head)
        yield add
        file.write(f"\n{tail}\n")


def boxes_in_global(
    boxes: np.ndarray,  # (M, 9) float64
    box_to_global: np.ndarray,  # (4, 4) float64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (M, 3), (M, 4), (M, 2) float64
    """Centres (metres), rotations (quaternions w, x, y, z) and velocities (metres per second) in the global frame."""
    rotation = box_to_global[:3, :3]
    centres = boxes[:, :3] @ rotation.T + box_to_global[:3, 3]
    turns = quaternion_multiply(matrix_to_quaternion(rotation), yaw_to_quaternion(boxes[:, 6]))
    velocities = (boxes[:, 7:9] @ rotation[:, :2].T)[:, :2]
    return centres, turns, velocities


def attribute_names(labels: np.ndarray, velocity: np.ndarray) -> list[str]:
    """Attribute of each object from its label (M,) and velocity (M, 2): published rule, moving is above 0.2 m/s."""
    moving = np.hypot(velocity[:, 0], velocity[:, 1]) > MOVING_SPEED
    return [
        (_MOVING if moves else _STANDING).get(CLASSES[label], "") for label, moves in zip(labels, moving, strict=True)
    ]


def _records(
    token: str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, box_to_global: np.ndarray
) -> list[dict[str, Any]]:
    boxes = boxes.reshape(-1, 9) if boxes.size == 0 else boxes
    _check(token, boxes, scores, labels, box_to_global)
    best = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    boxes, scores, labels = boxes[best].astype(np.float64), scores[best], labels[best].astype(np.int64)
    centre, turn, velocity = boxes_in_global(boxes, box_to_global)
    columns = zip(
        centre.tolist(),
        boxes[:, [4, 3, 5]].tolist(),  # nuScenes orders sizes width, length, height
        turn.tolist(),
        velocity.tolist(),
        labels,
        scores.tolist(),
        attribute_names(labels, velocity),
        strict=True,
    )
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": quaternion,
            "velocity": speed,
            "detection_name": CLASSES[label],
            "detection_score": score,
            "attribute_name": attribute,
        }
        for translation, size, quaternion, speed, label, score, attribute in columns
    ]


def _check(token: str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, box_to_global: np.ndarray) -> None:
    count = len(boxes)
    shapes = boxes.shape, scores.shape, labels.shape, box_to_global.shape
    if shapes != ((count, 9), (count,), (count,), (4, 4)):
        raise ValueError(f"sample {token}: boxes (M, 9), scores (M,), labels (M,), box_to_global (4, 4), got {shapes}")
    if not all(np.isfinite(array).all() for array in (boxes, scores, box_to_global)):
        raise ValueError(f"sample {token}: boxes, scores or box_to_global are not finite; has the model diverged?")
    if count and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise ValueError(f"sample {token}: labels must be 0 to {len(CLASSES) - 1}, got {labels.min()}..{labels.max()}")


def _as_array(values: ArrayLike) -> np.ndarray:
    """Array of numbers or of a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
