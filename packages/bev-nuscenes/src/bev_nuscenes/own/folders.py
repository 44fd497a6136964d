"""Frames of a description that lists none: the images found in the cameras' folders, paired by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .description import OwnCamera, OwnFrame, OwnReading, OwnScene
from .document import Field

__all__ = ["IMAGES", "files_by_stem", "frames_are_found", "scene_of_folders"]

IMAGES = (".jpg", ".jpeg", ".png")
"""Suffixes of images."""

SCENE = "images"
"""Name of the one scene."""

# The key: folders may be called so, too, and comments mention it.
_LISTS_SCENES = re.compile(rb"""(?:^|[{,])\s*["']?scenes["']?\s*:""", re.MULTILINE)


def frames_are_found(content: bytes) -> bool:
    """Whether a description lists no scenes, seen from its text without parsing it (it may be large)."""
    return not _LISTS_SCENES.search(content)


def scene_of_folders(field: Field, root: Path, cameras: Sequence[OwnCamera], rate_hz: float) -> tuple[OwnScene, ...]:
    """One scene of all images, in the order of their names; an ego that stands still.

    Images of several cameras belong together where their names are equal but for the suffix; so do single images of
    each camera, whatever they are called. Frames are ``1 / rate_hz`` seconds apart.
    """
    if rate_hz <= 0:
        field["rate_hz"].fail(f"frames per second above 0 are needed, got {rate_hz}")
    found = {camera.name: files_by_stem(root / camera.folder, IMAGES) for camera in cameras}
    for camera in cameras:
        if not found[camera.name]:
            field.note(f"camera {camera.name}: no .jpg or .png image in {root / camera.folder}")
    if all(len(images) == 1 for images in found.values()):
        found = {name: {"": next(iter(images.values()))} for name, images in found.items()}
    stems = sorted({stem for images in found.values() for stem in images})
    frames = tuple(
        OwnFrame(
            number=number,
            timestamp=number / rate_hz,
            ego_to_global=np.eye(4),
            images={name: OwnReading(file=images[stem]) for name, images in found.items() if stem in images},
        )
        for number, stem in enumerate(stems)
    )
    return (OwnScene(name=SCENE, frames=frames),)


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Stem -> name of the files of some kinds in a folder, in order of their names; none if there is no such folder."""
    return {path.stem: path.name for path in sorted(folder.glob("*")) if path.suffix.lower() in suffixes}
