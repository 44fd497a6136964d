"""Colours of the classes, as the nuScenes devkit paints them, and of everything else in a picture."""

from bev_nuscenes import CLASSES

_CLASS_RGB = {
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
Colour = tuple[float, float, float]

CLASS_COLOURS: tuple[Colour, ...] = tuple(
    (red / 255, green / 255, blue / 255) for red, green, blue in (_CLASS_RGB[name] for name in CLASSES)
)
"""Red, green, blue from 0 to 1, in the order of the labels."""

PAGE = "#ffffff"
INK = "#20242a"
MAP = "#f4f5f7"
RING = "#b9bec6"
POINT = "#8d949e"
TRUTH_ON_IMAGE = "#ffffff"
TRUTH_ON_MAP = "#20242a"
TRUTH_FILL = "#d5d9df"
HALO = "#ffffff"
