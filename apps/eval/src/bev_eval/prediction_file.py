"""Predicted boxes as a JSON file that explains itself.

Legend: M boxes of one frame.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bev_nuscenes import CLASSES, NuscenesIndex
from bev_nuscenes.submission import boxes_in_global, json_in_pieces
from bev_zoo import Detections

__all__ = ["PredictionFile"]

_UNITS = {
    "position": "metres",
    "size": "metres: length, width, height",
    "yaw": "radians, counter-clockwise from the x axis",
    "rotation": "quaternion w, x, y, z",
    "velocity": "metres per second: x, y",
    "timestamp": "seconds",
    "score": "0 to 1",
}
_FRAMES = {
    "ego": "of the vehicle at the time of the frame: x forward, y left, z up",
    "global": "the one that ego_to_global leads to",
}


class PredictionFile:
    """Writes predictions frame by frame, so that memory does not grow with the data; a context manager.

    The file appears under its name only when the ``with`` block ends well.
    """

    def __init__(self, path: str | Path, index: NuscenesIndex, recipe: str) -> None:
        """Prepare a file for predictions of the frames of an index by a recipe."""
        self.path, self.index, self.recipe = Path(path), index, recipe
        self._stack = ExitStack()

    def __enter__(self) -> PredictionFile:
        meta = {"recipe": self.recipe, "units": _UNITS, "frames_of_reference": _FRAMES, "classes": CLASSES}
        head = f'{{"meta": {json.dumps(meta)}, "frames": ['
        self._write = self._stack.enter_context(json_in_pieces(self.path, head, "]}"))
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def add(self, token: str, found: Detections) -> None:
        """Add the boxes of one frame, M = 0 too.

        Raises:
            ValueError: boxes or scores that are not finite.
        """
        position = self.index.position(token)
        boxes, scores = _numbers(found.boxes), _numbers(found.scores)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"frame {token}: boxes or scores are not finite; has the model diverged?")
        ego_to_global = self.index.box_to_global(position)
        frame = {
            "frame": token,
            "scene": self.index.scene_name(position),
            "timestamp": self.index.seconds(position),
            "images": [name.decode() for name in self.index.cameras.files[position]],
            "ego_to_global": ego_to_global.tolist(),
            "boxes": _records(boxes, scores, found.labels.tolist(), ego_to_global),
        }
        self._write(json.dumps(frame, allow_nan=False))


def _records(
    boxes: np.ndarray, scores: np.ndarray, labels: list[int], ego_to_global: np.ndarray
) -> list[dict[str, Any]]:
    """Boxes (M, 9) in both frames, best first."""
    centres, rotations, velocities = boxes_in_global(boxes, ego_to_global)
    return [
        {
            "class": CLASSES[labels[m]],
            "score": float(scores[m]),
            "size": boxes[m, 3:6].tolist(),
            "ego": {"centre": boxes[m, :3].tolist(), "yaw": float(boxes[m, 6]), "velocity": boxes[m, 7:9].tolist()},
            "global": {
                "centre": centres[m].tolist(),
                "rotation": rotations[m].tolist(),
                "velocity": velocities[m].tolist(),
            },
        }
        for m in np.argsort(-scores, kind="stable")
    ]


def _numbers(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
