"""Camera geometry and lift-splat view transforms."""

from .depth_net import PlainDepthNet
from .frustum import DepthBins, frustum_points, points_to_ego
from .lift_splat import LiftSplat, LiftSplatOutput
from .plan_cache import PlanCache
from .rig import CalibrationError, CameraRig

__all__ = [
    "CalibrationError",
    "CameraRig",
    "DepthBins",
    "LiftSplat",
    "LiftSplatOutput",
    "PlainDepthNet",
    "PlanCache",
    "frustum_points",
    "points_to_ego",
]
