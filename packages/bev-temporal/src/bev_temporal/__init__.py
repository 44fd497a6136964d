"""Time for bird's-eye-view detectors: ego-motion alignment of maps, and stereo between frames."""

from .cost_volume import StereoCostVolume
from .memory import BevMemory
from .motion import camera_to_previous, now_to_then
from .sweep import previous_views
from .warp import cell_motion, warp_bev

__all__ = [
    "BevMemory",
    "StereoCostVolume",
    "camera_to_previous",
    "cell_motion",
    "now_to_then",
    "previous_views",
    "warp_bev",
]
