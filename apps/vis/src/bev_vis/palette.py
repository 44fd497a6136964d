"""Colours of the classes, as the nuScenes devkit paints them or safe for the colour-blind, and of everything else."""

from dataclasses import dataclass
from typing import Literal

from bev_nuscenes import CLASSES, FREE, OCCUPANCY_CLASSES

Colour = tuple[float, float, float]
"""Red, green, blue from 0 to 1."""
PaletteName = Literal["nuscenes", "colour-blind"]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """A colour for every class of boxes and of voxels."""

    classes: tuple[Colour, ...]  # in the order of bev_nuscenes.CLASSES
    voxels: tuple[Colour, ...]  # in the order of OCCUPANCY_CLASSES, without free


_BOX_RGB = {
    "car": (255, 158, 0),
    "truck": (255, 99, 71),
    "construction_vehicle": (233, 150, 70),
    "bus": (255, 69, 0),
    "trailer": (255, 140, 0),
    "barrier": (112, 128, 144),
    "motorcycle": (255, 61, 99),
    "bicycle": (220, 20, 60),
    "pedestrian": (0, 0, 230),
    "traffic_cone": (47, 79, 79),
}
_VOXEL_RGB = _BOX_RGB | {
    "others": (60, 60, 60),
    "driveable_surface": (0, 207, 191),
    "other_flat": (175, 0, 75),
    "sidewalk": (75, 0, 75),
    "terrain": (112, 180, 60),
    "manmade": (222, 184, 135),
    "vegetation": (0, 175, 0),
}
# The eight colours of Okabe and Ito (jfly.uni-koeln.de/color), grey, and a dark wine red for the tenth class.
_SAFE_BOX_RGB = {
    "car": (230, 159, 0),
    "truck": (213, 94, 0),
    "construction_vehicle": (240, 228, 66),
    "bus": (204, 121, 167),
    "trailer": (86, 180, 233),
    "barrier": (136, 136, 136),
    "motorcycle": (0, 158, 115),
    "bicycle": (136, 34, 85),
    "pedestrian": (0, 114, 178),
    "traffic_cone": (0, 0, 0),
}
# Large surfaces are pale, so that the same hues stay free for what stands on them.
_SAFE_VOXEL_RGB = _SAFE_BOX_RGB | {
    "others": (60, 60, 60),
    "driveable_surface": (190, 196, 204),
    "other_flat": (222, 203, 228),
    "sidewalk": (150, 158, 172),
    "terrain": (229, 216, 189),
    "manmade": (253, 205, 172),
    "vegetation": (160, 208, 190),
}


def _palette(boxes: dict[str, tuple[int, int, int]], voxels: dict[str, tuple[int, int, int]]) -> Palette:
    return Palette(
        classes=tuple(_fractions(*boxes[name]) for name in CLASSES),
        voxels=tuple(_fractions(*voxels[name]) for name in OCCUPANCY_CLASSES[:FREE]),
    )


def _fractions(red: int, green: int, blue: int) -> Colour:
    return red / 255, green / 255, blue / 255


NUSCENES = _palette(_BOX_RGB, _VOXEL_RGB)
COLOUR_BLIND = _palette(_SAFE_BOX_RGB, _SAFE_VOXEL_RGB)


def palette_named(name: PaletteName) -> Palette:
    """The palette that an option names."""
    return COLOUR_BLIND if name == "colour-blind" else NUSCENES


PAGE = "#ffffff"
INK = "#20242a"
MAP = "#f4f5f7"
RING = "#b9bec6"
POINT = "#8d949e"
TRUTH_ON_IMAGE = "#ffffff"
TRUTH_ON_MAP = "#20242a"
TRUTH_FILL = "#d5d9df"
HALO = "#ffffff"
