"""Velocities of annotated objects that are followed through a scene."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from .description import OwnBox, OwnFrame, OwnScene

__all__ = ["track_velocities"]

_MAX_TIME = 1.5  # seconds between two annotations that give a velocity, that of nuscenes-devkit


class _Seen(NamedTuple):
    frame: int  # number in the scene
    box: int  # number in the frame
    time: float
    centre: np.ndarray  # (3,) in the global frame


def track_velocities(scene: OwnScene) -> dict[tuple[int, int], np.ndarray]:
    """Velocities (3,) in the global frame, m/s, by (frame number, box number), of boxes with a ``track``.

    The difference between the annotations before and after; at the ends of a track between the last two. Neighbours
    more than 1.5 s apart (3 s from the one before to the one after) give none: the rule of nuscenes-devkit.
    """
    tracks: dict[str, list[_Seen]] = defaultdict(list)
    for frame in scene.frames:
        for number, box in enumerate(frame.boxes):
            if box.track is not None:
                tracks[box.track].append(_Seen(frame.number, number, frame.timestamp, _centre(frame, box)))
    velocities: dict[tuple[int, int], np.ndarray] = {}
    for track in tracks.values():
        for place, seen in enumerate(track):
            before, after = track[max(place - 1, 0)], track[min(place + 1, len(track) - 1)]
            span = after.time - before.time
            both = before is not seen and after is not seen
            if 0 < span <= (2 * _MAX_TIME if both else _MAX_TIME):
                velocities[seen.frame, seen.box] = (after.centre - before.centre) / span
    return velocities


def _centre(frame: OwnFrame, box: OwnBox) -> np.ndarray:
    centre = np.array(box.centre)
    pose = frame.ego_to_global
    return centre if box.frame == "global" else pose[:3, :3] @ centre + pose[:3, 3]
